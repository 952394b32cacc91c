//! `dorian builds`: which images are being built, how far that is, and how to stop one.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use control_plane::{BuildList, BuildRow};

use crate::layers::one_line;
use crate::output::print;
use crate::schedules::{Place, ask, encoded};

/// List the images that are being built now; or stop a build
///
/// A build goes on for as long as somebody waits for it: a client that runs or deploys a program, or another build. Ten
/// seconds after the last of them has left it is stopped. Steps that are finished stay, for the next build.
#[derive(Args)]
#[command(after_help = "\
Examples:
  sudo dorian builds
  sudo dorian builds cancel im-01KBCD...
  sudo dorian builds --json | jq -r '.builds[].image'")]
#[command(args_conflicts_with_subcommands = true)]
pub struct BuildsArgs {
    #[command(flatten)]
    place: Place,
    /// Print JSON, with every id
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    act: Option<Act>,
}

#[derive(Subcommand)]
enum Act {
    /// Stop a build, whoever waits for it; returns when it has ended
    Cancel {
        /// Id of the image, as `dorian builds` shows it
        image: String,
        #[command(flatten)]
        place: Place,
    },
}

pub fn run(args: &BuildsArgs) -> Result<ExitCode> {
    match &args.act {
        Some(Act::Cancel { image, place }) => {
            ask(place, &format!("POST /builds/cancel?image={}", encoded(image)))?;
            print(&format!("cancelled the build of {image}"));
        }
        None => {
            let answer = ask(&args.place, "GET /builds")?;
            let list: BuildList = serde_json::from_str(&answer).context("cannot understand the server's answer")?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis() as u64);
            print(&if args.json { serde_json::to_string_pretty(&list)? } else { table(&list, now) });
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn table(list: &BuildList, now_ms: u64) -> String {
    if list.builds.is_empty() {
        return "no image is being built".to_owned();
    }
    let mut rows = vec![["IMAGE", "APP", "STEP", "FOR", "WAITERS", "WHAT"].map(str::to_owned)];
    rows.extend(list.builds.iter().map(|build| cells(build, now_ms)));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..5).map(width).collect();
    let line = |row: &[String; 6]| {
        let padded: String = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}  ")).collect();
        padded + &row[5]
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn cells(build: &BuildRow, now_ms: u64) -> [String; 6] {
    let app = build.app.clone().or_else(|| build.app_id.as_ref().map(ToString::to_string));
    let step = build.step.zip(build.steps).map(|(step, steps)| format!("{step}/{steps}"));
    [
        build.image.to_string(),
        app.map_or_else(|| "-".to_owned(), |app| one_line(&app)),
        step.unwrap_or_else(|| "-".to_owned()),
        duration(now_ms.saturating_sub(build.started_ms) / 1000),
        build.waiters.to_string(),
        build.doing.as_deref().map_or_else(|| "-".to_owned(), one_line),
    ]
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        _ => format!("{} min", seconds / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::ids::ImageId;

    #[test]
    fn the_table_says_what_is_built_how_far_that_is_and_who_waits() {
        let row = |image: &str, step: Option<usize>, started_ms, waiters| BuildRow {
            image: ImageId::parse(image).unwrap(),
            app: Some("trainer".to_owned()),
            app_id: None,
            step,
            steps: step.map(|_| 7),
            doing: step.map(|step| format!("Step {step}/7: RUN make\n  all")),
            started_ms,
            waiters,
        };
        let list = BuildList { builds: vec![row("im-1", Some(3), 0, 2), row("im-22", None, 290_000, 0)] };
        let expected = "\
IMAGE  APP      STEP  FOR    WAITERS  WHAT
im-1   trainer  3/7   5 min  2        Step 3/7: RUN make all
im-22  trainer  -     10 s   0        -";
        assert_eq!(table(&list, 300_000), expected);
        assert_eq!(table(&BuildList::default(), 0), "no image is being built");
    }
}
