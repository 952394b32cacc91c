//! `dorian disk`: where the space is, and what could go.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use control_plane::{DiskReport, DiskRow, disk_report_offline};

use crate::layers::size;
use crate::output::{print, step_if_slow};
use crate::{admin, data_dir};

/// Say what takes up the disk, and what of it could go
///
/// Volumes and network file systems are named one by one. `COULD GO` is what the command beside it would give back now;
/// `-` is for what goes by itself, or with what it belongs to. Without a running server it is not known which images
/// are in use.
#[derive(Args)]
#[command(after_help = "\
Examples:
  sudo dorian disk
  sudo dorian disk --data /srv/dorian
  sudo dorian disk --json | jq '.rows[] | select(.bytes > 1e9)'")]
pub struct DiskArgs {
    /// Folder of the server's state
    #[arg(long, value_name = "DIR", default_value = data_dir::DEFAULT, env = "DORIAN_DATA")]
    data: PathBuf,
    /// Print JSON, with sizes in bytes
    #[arg(long)]
    json: bool,
}

pub fn run(args: &DiskArgs) -> Result<ExitCode> {
    let report = step_if_slow("measuring what is on disk", || measure(&args.data))?;
    if args.json {
        print(&serde_json::to_string_pretty(&report)?);
    } else {
        print(&table(&report));
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(data: &Path) -> Result<DiskReport> {
    if data_dir::is_used(data)? {
        let lines =
            admin::ask(data, "GET /disk").context("a server uses the data directory, but does not answer yet")?;
        let answer = lines.collect::<Result<Vec<String>, _>>().context("cannot read the server's answer")?.concat();
        return serde_json::from_str(&answer).context("cannot understand the server's answer");
    }
    // A server may start meanwhile. What it changes is counted as it is found; it must not wait for all files to be looked at.
    let names = metadata_store::names_of_objects(&data.join("metadata.sqlite"));
    let names = names.context("cannot read the names of volumes")?;
    Ok(disk_report_offline(data, &names))
}

fn table(report: &DiskReport) -> String {
    let mut rows = vec![["WHAT", "SIZE", "COULD GO", "BY"].map(str::to_owned)];
    rows.extend(report.rows.iter().filter(|row| row.bytes > 0).map(cells));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..3).map(width).collect();
    let line = |row: &[String; 4]| {
        let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}  "));
        (padded.collect::<String>() + &row[3]).trim_end().to_owned()
    };
    let mut lines: Vec<String> = rows.iter().map(line).collect();
    let all: u64 = report.rows.iter().map(|row| row.bytes).sum();
    let (free, total) = (size(report.free_bytes), size(report.total_bytes));
    lines.push(format!("{} in all; {free} of the disk's {total} are free", size(all)));
    lines.join("\n")
}

fn cells(row: &DiskRow) -> [String; 4] {
    let could_go = row.could_go.map_or("-".to_owned(), size);
    let how = if row.could_go == Some(0) { String::new() } else { row.how.clone() };
    [row.what.clone(), size(row.bytes), could_go, how]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_where_the_space_is_and_what_could_go() {
        let row = |what: &str, bytes, could_go, how: &str| DiskRow {
            what: what.to_owned(),
            bytes,
            could_go,
            how: how.to_owned(),
        };
        let rows = vec![
            row("volume `mine`", 30_000_000, Some(1_000_000), "dorian gc"),
            row("volume `other`", 0, Some(0), "dorian gc"),
            row("layers of images", 2_000_000_000, Some(0), "dorian gc"),
            row("databases", 5_000, None, ""),
        ];
        let report = DiskReport { rows, free_bytes: 5_000_000_000, total_bytes: 9_000_000_000 };
        let expected = "\
WHAT              SIZE     COULD GO  BY
volume `mine`     30.0 MB  1.0 MB    dorian gc
layers of images  2.0 GB   0 kB
databases         5 kB     -
2.0 GB in all; 5.0 GB of the disk's 9.0 GB are free";
        assert_eq!(table(&report), expected);
    }
}
