//! `dorian volumes`: what containers wrote to volumes and could not commit, and how to get it back.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use control_plane::{RecoveredFiles, UnsavedList, UnsavedRow};

use crate::layers::one_line;
use crate::output::print;
use crate::schedules::{Place, ask, encoded};

/// List what containers wrote to volumes and could not commit; or put it there now
///
/// What a container has written when it ends goes into its volume. If that fails, most often for a full disk, it is moved
/// aside, and the app's log says so. (`modal volume` lists the volumes themselves.)
#[derive(Args)]
#[command(after_help = "\
Examples:
  sudo dorian volumes
  sudo dorian volumes recover vo-01KBCD....ta-01KBCE...")]
#[command(args_conflicts_with_subcommands = true)]
pub struct VolumesArgs {
    #[command(flatten)]
    place: Place,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    act: Option<Act>,
}

#[derive(Subcommand)]
enum Act {
    /// Put what was moved aside into its volume, and take it away
    ///
    /// A file goes in where the volume has none of its name, or an older one. What the volume has something newer for stays
    /// aside, and nothing in the volume is deleted.
    Recover {
        /// As `dorian volumes` and the app's log show it
        name: String,
        #[command(flatten)]
        place: Place,
    },
}

pub fn run(args: &VolumesArgs) -> Result<ExitCode> {
    let not_understood = "cannot understand the server's answer";
    match &args.act {
        Some(Act::Recover { name, place }) => {
            let answer = ask(place, &format!("POST /volumes/recover?name={}", encoded(name)))?;
            let recovered: RecoveredFiles = serde_json::from_str(&answer).context(not_understood)?;
            print(&told(name, &recovered));
        }
        None => {
            let answer = ask(&args.place, "GET /volumes/unsaved")?;
            let list: UnsavedList = serde_json::from_str(&answer).context(not_understood)?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis() as u64);
            print(&if args.json { serde_json::to_string_pretty(&list)? } else { table(&list, now) });
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn told(name: &str, recovered: &RecoveredFiles) -> String {
    let files = |count: u64| if count == 1 { "1 file".to_owned() } else { format!("{count} files") };
    let done = format!("{} of {name} in the volume", files(recovered.files));
    if recovered.left.is_empty() {
        return done;
    }
    let left: String = recovered.left.iter().map(|path| format!("\n  {}", one_line(path))).collect();
    format!("{done}; {} stay aside, since the volume has something newer:{left}", files(recovered.left.len() as u64))
}

fn table(list: &UnsavedList, now_ms: u64) -> String {
    if list.unsaved.is_empty() {
        return "everything that containers wrote to volumes is there".to_owned();
    }
    let mut rows = vec![["VOLUME", "AGE", "NAME", "PLACE"].map(str::to_owned)];
    rows.extend(list.unsaved.iter().map(|row| cells(row, now_ms)));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..3).map(width).collect();
    let line = |row: &[String; 4]| {
        let padded: String = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}  ")).collect();
        padded + &row[3]
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn cells(row: &UnsavedRow, now_ms: u64) -> [String; 4] {
    let minutes = now_ms.saturating_sub(row.since_ms) / 60_000;
    let age = match minutes {
        0..=119 => format!("{minutes} min"),
        120..=2_879 => format!("{} h", minutes / 60),
        _ => format!("{} days", minutes / 1_440),
    };
    let volume = row.volume.as_deref().map_or_else(|| "(deleted)".to_owned(), one_line);
    [volume, age, row.name.clone(), row.place.display().to_string()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_of_which_volume_it_is_and_where() {
        let row = |name: &str, volume: Option<&str>, since_ms| UnsavedRow {
            name: name.to_owned(),
            volume: volume.map(str::to_owned),
            volume_id: "vo-1".to_owned(),
            container: "ta-1".to_owned(),
            since_ms,
            place: format!("/d/{name}").into(),
        };
        let list =
            UnsavedList { unsaved: vec![row("vo-1.ta-1", Some("models"), 0), row("vo-2.ta-1", None, 9_000_000)] };
        let expected = "\
VOLUME     AGE    NAME       PLACE
models     2 h    vo-1.ta-1  /d/vo-1.ta-1
(deleted)  1 min  vo-2.ta-1  /d/vo-2.ta-1";
        assert_eq!(table(&list, 9_060_000), expected);
    }

    #[test]
    fn what_stays_aside_is_named() {
        let recovered = RecoveredFiles { files: 3, left: vec!["deep/newer".to_owned()] };
        let text = told("vo-1.ta-1", &recovered);
        assert!(text.contains("3 files of vo-1.ta-1") && text.contains("\n  deep/newer"), "{text}");
    }
}
