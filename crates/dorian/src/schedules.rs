//! `dorian schedules`: which functions run by themselves, when they did and will, and how to run one now.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use control_plane::{ScheduleList, ScheduleRow};

use crate::layers::one_line;
use crate::output::print;
use crate::{admin, data_dir};

/// List the functions that run by themselves, with their last and next runs; or run one now
///
/// Schedules come from `@app.function(schedule=modal.Cron(...))` or `modal.Period(...)` of deployed apps. Times are on the
/// clock of the schedule's zone.
#[derive(Args)]
#[command(after_help = "\
Examples:
  sudo dorian schedules
  sudo dorian schedules run my-app nightly_report
  sudo dorian schedules --json | jq '.schedules[] | select(.last_result | startswith(\"failed\")?)'")]
#[command(args_conflicts_with_subcommands = true)]
pub struct SchedulesArgs {
    #[command(flatten)]
    place: Place,
    /// Print JSON, with every id
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    act: Option<Act>,
}

#[derive(Args)]
pub struct Place {
    /// Folder of the server's state
    #[arg(long, value_name = "DIR", default_value = data_dir::DEFAULT, env = "DORIAN_DATA")]
    data: PathBuf,
}

#[derive(Subcommand)]
enum Act {
    /// Run a function with a schedule once, now, and print the id of the call; its schedule stays as it is
    #[command(after_help = "\
Examples:
  sudo dorian schedules run my-app nightly_report
  modal.FunctionCall.from_id(\"fc-...\").get()      in Python: waits for what it returns")]
    Run {
        /// Name or id of the deployed app
        app: String,
        /// Name of the function
        function: String,
        #[command(flatten)]
        place: Place,
    },
}

pub fn run(args: &SchedulesArgs) -> Result<ExitCode> {
    match &args.act {
        Some(Act::Run { app, function, place }) => {
            let request = format!("POST /schedules/run?app={}&function={}", encoded(app), encoded(function));
            print(ask(place, &request)?.trim());
        }
        None => {
            let answer = ask(&args.place, "GET /schedules")?;
            let list: ScheduleList = serde_json::from_str(&answer).context("cannot understand the server's answer")?;
            print(&if args.json { serde_json::to_string_pretty(&list)? } else { table(&list) });
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub fn ask(place: &Place, request: &str) -> Result<String> {
    let lines = admin::ask(&place.data, request)?;
    Ok(lines.collect::<Result<Vec<String>, _>>().context("cannot read the server's answer")?.concat())
}

/// As a parameter of a query.
pub fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

fn table(list: &ScheduleList) -> String {
    if list.schedules.is_empty() {
        return "no deployed function has a schedule".to_owned();
    }
    let mut rows = vec![["APP", "FUNCTION", "SCHEDULE", "NEXT RUN", "LAST RUN", "RESULT"].map(str::to_owned)];
    rows.extend(list.schedules.iter().map(cells));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..5).map(width).collect();
    let line = |row: &[String; 6]| {
        let padded: String = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}  ")).collect();
        padded + &row[5]
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn cells(row: &ScheduleRow) -> [String; 6] {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    [
        row.app.clone(),
        row.function.clone(),
        row.schedule.clone(),
        or_dash(&row.next_run),
        or_dash(&row.last_run),
        one_line(&or_dash(&row.last_result)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_runs_when_and_how_it_went() {
        let row = |function: &str, last: Option<&str>| ScheduleRow {
            app: "reports".to_owned(),
            app_id: types::ids::AppId::random(),
            environment: "main".to_owned(),
            function: function.to_owned(),
            function_id: types::ids::FunctionId::random(),
            schedule: "every 1 day".to_owned(),
            next_run_ms: Some(1),
            next_run: Some("2026-11-25 06:00:00 +00:00".to_owned()),
            last_run_ms: None,
            last_run: None,
            last_call: None,
            last_result: last.map(str::to_owned),
        };
        let list = ScheduleList { schedules: vec![row("nightly", Some("failed: no\n disk")), row("weekly", None)] };
        let expected = "\
APP      FUNCTION  SCHEDULE     NEXT RUN                    LAST RUN  RESULT
reports  nightly   every 1 day  2026-11-25 06:00:00 +00:00  -         failed: no disk
reports  weekly    every 1 day  2026-11-25 06:00:00 +00:00  -         -";
        assert_eq!(table(&list), expected);
    }

    #[test]
    fn names_travel_as_they_are() {
        assert_eq!(encoded("my-app_1.x"), "my-app_1.x");
        assert_eq!(encoded("a b&ä"), "a%20b%26%C3%A4");
    }
}
