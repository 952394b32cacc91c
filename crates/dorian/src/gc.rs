//! `dorian gc`: removes image layers that nothing needs, and files that no volume refers to.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use control_plane::{GarbageEvent, GarbageReport, KEEP_DAYS, LayerRow};
use types::words::counted;

use crate::layers::{one_line, short, size};
use crate::output::{print, progress, step_if_slow};
use crate::{admin, data_dir};

/// Remove image layers, downloads and files of volumes that nothing in use needs
///
/// Kept are the images of apps that run or are deployed, of running containers and of published names, what a build is
/// about to use, and whatever was used within the last days; of the package downloads, what was used within these days.
/// Of volumes, what was replaced or deleted goes at once, whatever its age, unless it is still being read. With
/// `--keep-days 0`, a program that starts at this moment may find that one of its images was just removed.
#[derive(Args)]
#[command(after_help = "\
Examples:
  sudo dorian gc --dry-run        what would go
  sudo dorian gc                  remove what nobody used for two weeks
  sudo dorian gc --keep-days 0    remove everything that nothing uses now")]
pub struct GcArgs {
    /// Folder of the server's state
    #[arg(long, value_name = "DIR", default_value = data_dir::DEFAULT, env = "DORIAN_DATA")]
    data: PathBuf,
    /// Keep what was used within so many days
    #[arg(long, value_name = "DAYS", default_value_t = KEEP_DAYS)]
    keep_days: f64,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Print what happened as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &GcArgs) -> Result<ExitCode> {
    let request = format!("POST /gc?keep_days={}&dry_run={}", args.keep_days, args.dry_run);
    let mut events = admin::ask(&args.data, &request)?;
    let mut next = || -> Result<GarbageEvent> {
        let line = events.next().context("the server ended in the middle; run `dorian gc` again")??;
        serde_json::from_str(&line).context("cannot understand the server's answer")
    };
    let mut planned = Vec::new();
    let mut last_said = Instant::now();
    let mut event = step_if_slow("looking at layers", &mut next)?;
    let report = loop {
        match event {
            GarbageEvent::Planned { layers, .. } => planned = layers,
            GarbageEvent::Removed { layers, bytes } if last_said.elapsed() > Duration::from_secs(1) => {
                last_said = Instant::now();
                progress(&format!("removed {layers} of {}, {}", counted(planned.len(), "layer"), size(bytes)));
            }
            GarbageEvent::Removed { .. } => {}
            GarbageEvent::Finished(report) => break report,
            GarbageEvent::Failed { error } => bail!("{error}"),
        }
        event = next()?;
    };
    match (args.json, args.dry_run) {
        (true, true) => print(&serde_json::to_string_pretty(&serde_json::json!({
            "dry_run": true, "report": report, "layers": planned,
        }))?),
        (true, false) => print(&serde_json::to_string_pretty(&serde_json::json!({
            "dry_run": false, "report": report,
        }))?),
        (false, true) => print(&dry_text(&planned, &report)),
        (false, false) => print(&text(&report)),
    }
    Ok(ExitCode::SUCCESS)
}

fn dry_text(planned: &[LayerRow], report: &GarbageReport) -> String {
    let row = |layer: &LayerRow| format!("{}  {:>8}  {}", short(&layer.key), size(layer.bytes), one_line(&layer.title));
    let mut lines: Vec<String> = planned.iter().map(row).collect();
    lines.push(format!(
        "would remove {} ({}) and {}, downloads that were not used lately, and what volumes do not refer to any more; \
         {} ({}) {}",
        counted(report.layers, "layer"),
        size(report.layer_bytes),
        counted(report.images, "image"),
        counted(report.layers_left, "layer"),
        size(report.bytes_left),
        stay(report.layers_left)
    ));
    lines.join("\n")
}

fn stay(layers: usize) -> &'static str {
    if layers == 1 { "stays" } else { "stay" }
}

fn text(report: &GarbageReport) -> String {
    let mut text = format!(
        "removed {} ({}), {}, {} of downloads ({}) and {} of volumes; {} ({}) {}",
        counted(report.layers, "layer"),
        size(report.layer_bytes),
        counted(report.images, "image"),
        counted(report.caches, "folder"),
        size(report.cache_bytes),
        size(report.volume_bytes),
        counted(report.layers_left, "layer"),
        size(report.bytes_left),
        stay(report.layers_left)
    );
    if report.layers_wanted_meanwhile > 0 {
        text.push_str(&format!(", {} of them because somebody wanted them meanwhile", report.layers_wanted_meanwhile));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outcome_is_one_sentence() {
        let report = GarbageReport {
            images: 1,
            layers: 2,
            layer_bytes: 3_000_000,
            layers_wanted_meanwhile: 1,
            layers_left: 4,
            bytes_left: 5_000_000_000,
            caches: 0,
            cache_bytes: 0,
            volume_bytes: 30_000_000,
        };
        assert_eq!(
            text(&report),
            "removed 2 layers (3.0 MB), 1 image, 0 folders of downloads (0 kB) and 30.0 MB of volumes; 4 layers (5.0 GB) stay, \
             1 of them because somebody wanted them meanwhile"
        );
    }
}
