//! `dorian layers`: what image builds have left on disk, how large it is, and why it is still there.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::Args;
use control_plane::{KEEP_DAYS, LayerList, LayerRow};

use crate::output::{count, print, step_if_slow};
use crate::{admin, data_dir};

/// List the layers of images on disk, with their sizes and why each is kept
///
/// Layers are what images are made of: the result of one step of a build, an image's layer from a registry, the files of
/// a mount, the client's own package. `-` in the last column but one says that `dorian gc` would remove the layer.
#[derive(Args)]
#[command(after_help = "\
Examples:
  sudo dorian layers
  sudo dorian layers --data /srv/dorian
  sudo dorian layers --json | jq '[.layers[].bytes] | add'")]
pub struct LayersArgs {
    /// Folder of the server's state
    #[arg(long, value_name = "DIR", default_value = data_dir::DEFAULT, env = "DORIAN_DATA")]
    data: PathBuf,
    /// Say what stays when `dorian gc` keeps what was used within so many days
    #[arg(long, value_name = "DAYS", default_value_t = KEEP_DAYS)]
    keep_days: f64,
    /// Print JSON, with every image and reason
    #[arg(long)]
    json: bool,
}

pub fn run(args: &LayersArgs) -> Result<ExitCode> {
    let request = format!("GET /layers?keep_days={}", args.keep_days);
    let answer = step_if_slow("measuring layers", || -> Result<String> {
        let lines = admin::ask(&args.data, &request)?;
        Ok(lines.collect::<Result<Vec<String>, _>>().context("cannot read the server's answer")?.concat())
    })?;
    let list: LayerList = serde_json::from_str(&answer).context("cannot understand the server's answer")?;
    if args.json {
        print(&serde_json::to_string_pretty(&list)?);
    } else {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis() as u64);
        print(&table(&list, now));
    }
    Ok(ExitCode::SUCCESS)
}

fn table(list: &LayerList, now_ms: u64) -> String {
    let head = ["LAYER", "SIZE", "MADE", "USED", "IMAGES", "KEPT FOR", "WHAT"].map(str::to_owned);
    let mut rows = vec![head];
    rows.extend(list.layers.iter().map(|layer| cells(layer, now_ms)));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    let mut lines: Vec<String> = rows
        .iter()
        .map(|row| {
            let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}  "));
            padded.collect::<String>() + &row[6]
        })
        .collect();
    let bytes: u64 = list.layers.iter().map(|layer| layer.bytes).sum();
    let free: u64 = list.layers.iter().filter(|layer| layer.kept.is_empty()).map(|layer| layer.bytes).sum();
    lines.push(format!(
        "{}, {}, of which `dorian gc` would remove {}",
        count(list.layers.len(), "layer"),
        size(bytes),
        size(free)
    ));
    lines.join("\n")
}

fn cells(layer: &LayerRow, now_ms: u64) -> [String; 7] {
    let kept = match layer.kept.as_slice() {
        [] => "-".to_owned(),
        [one] => one.to_string(),
        [first, more @ ..] => format!("{first} and {} more", more.len()),
    };
    [
        short(&layer.key),
        size(layer.bytes),
        ago(layer.created_ms, now_ms),
        ago(layer.used_ms, now_ms),
        layer.images.len().to_string(),
        kept,
        one_line(&layer.title),
    ]
}

/// As many digits as tell layers apart.
pub fn short(key: &str) -> String {
    key.chars().take(12).collect()
}

/// Commands span lines, and may be pages long.
pub fn one_line(title: &str) -> String {
    const MOST: usize = 70;
    let words: Vec<&str> = title.split_whitespace().collect();
    let text = words.join(" ");
    if text.chars().count() <= MOST {
        return text;
    }
    text.chars().take(MOST - 1).collect::<String>() + "…"
}

pub fn size(bytes: u64) -> String {
    match bytes as f64 {
        b if b >= 1e9 => format!("{:.1} GB", b / 1e9),
        b if b >= 1e6 => format!("{:.1} MB", b / 1e6),
        b => format!("{:.0} kB", (b / 1e3).ceil()),
    }
}

fn ago(then_ms: u64, now_ms: u64) -> String {
    let minutes = now_ms.saturating_sub(then_ms) / 60_000;
    match minutes {
        0 => "just now".to_owned(),
        1..=119 => format!("{minutes} min ago"),
        120..=2879 => format!("{} h ago", minutes / 60),
        _ => format!("{} days ago", minutes / 1440),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control_plane::Reason;

    #[test]
    fn the_table_says_what_is_there_and_why() {
        let layer = |key: &str, bytes, title: &str, kept| LayerRow {
            key: key.repeat(16),
            bytes,
            created_ms: 0,
            used_ms: 86_000_000,
            title: title.to_owned(),
            images: Vec::new(),
            kept,
        };
        let list = LayerList {
            layers: vec![
                layer(
                    "abcd",
                    212_000_000,
                    "RUN pip install\n  numpy",
                    vec![Reason::Name("x:1".to_owned()), Reason::RecentUse],
                ),
                layer("0123", 900, "COPY a b", Vec::new()),
            ],
        };
        let expected = "\
LAYER         SIZE      MADE      USED       IMAGES  KEPT FOR               WHAT
abcdabcdabcd  212.0 MB  24 h ago  6 min ago  0       name `x:1` and 1 more  RUN pip install numpy
012301230123  1 kB      24 h ago  6 min ago  0       -                      COPY a b
2 layers, 212.0 MB, of which `dorian gc` would remove 1 kB";
        assert_eq!(table(&list, 86_400_000), expected);
    }
}
