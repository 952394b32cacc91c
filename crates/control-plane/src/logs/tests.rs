//! Keeping and reading together, on a real folder.

use std::fs;
use std::process::Command;

use proptest::prelude::*;
use types::ids::TaskId;

use super::*;

const ALL: KeptRange = KeptRange { after: 0, before: u64::MAX, since_ms: 0 };

fn app() -> AppId {
    AppId::parse("ap-kept").unwrap()
}

fn open(folder: &std::path::Path, limits: LogLimits) -> (Arc<LogKeeper>, AppLog) {
    let keeper = LogKeeper::open(folder.to_owned(), limits).unwrap();
    let log = AppLog::kept(&keeper, &app());
    (keeper, log)
}

fn say(log: &AppLog, text: impl Into<String>) {
    log.append(7, Origin::default(), Descriptor::Stdout, text.into());
}

fn kept(keeper: &LogKeeper, range: KeptRange, limit: usize) -> Vec<LogEntry> {
    let newest = Newest::default().add_kept(&keeper.folder_of(&app()), range, limit, usize::MAX, |_| true).unwrap();
    newest.entries.into()
}

fn texts(entries: &[LogEntry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.text.as_str()).collect()
}

#[test]
fn what_was_printed_is_there_after_a_restart_and_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut positions = Vec::new();
    for life in 0..3 {
        let (keeper, log) = open(folder.path(), LogLimits::default());
        assert!(positions.iter().all(|p| *p <= log.base()), "a follower's position is not before what comes");
        for line in 0..3 {
            say(&log, format!("life {life} line {line}"));
        }
        positions.extend(log.after(log.base(), 10).entries.iter().map(|e| e.sequence));
        keeper.close();
    }
    let (keeper, log) = open(folder.path(), LogLimits::default());
    let all = kept(&keeper, ALL, 100);
    assert_eq!(all.iter().map(|e| e.sequence).collect::<Vec<_>>(), positions);
    assert_eq!(texts(&all)[..4], ["life 0 line 0", "life 0 line 1", "life 0 line 2", "life 1 line 0"]);
    assert_eq!(texts(&kept(&keeper, ALL, 2)), ["life 2 line 1", "life 2 line 2"]);
    let between = KeptRange { after: positions[1], before: positions[5], since_ms: 0 };
    assert_eq!(texts(&kept(&keeper, between, 100)), ["life 0 line 2", "life 1 line 0", "life 1 line 1"]);
    assert!(log.after(log.base(), 10).entries.is_empty());
}

#[tokio::test]
async fn a_quiet_log_leaves_memory_and_is_read_from_the_disk_by_the_same_positions() {
    let folder = tempfile::tempdir().unwrap();
    let (keeper, log) = open(folder.path(), LogLimits::default());
    let base = log.base();
    for line in 0..3 {
        say(&log, format!("line {line}"));
    }
    keeper.flush().await;
    log.put_away_if_quiet(7 + QUIET_MS - 1);
    assert_eq!(log.base(), base, "it was not quiet for long enough");
    log.put_away_if_quiet(7 + QUIET_MS);
    assert_eq!((log.base(), log.buffer.lock().entries.capacity()), (base + 3, 0));
    say(&log, "line 3");
    let page = log.after(log.base(), 10);
    assert_eq!((texts(&page.entries), page.missed), (vec!["line 3"], 0));
    let before = log.visit(|_| ());
    let kept = kept(&keeper, KeptRange { after: 0, before, since_ms: 0 }, 10);
    assert_eq!(texts(&kept), ["line 0", "line 1", "line 2"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn a_file_torn_anywhere_keeps_what_is_before_and_what_comes_after(cut in any::<proptest::sample::Index>()) {
        let folder = tempfile::tempdir().unwrap();
        let (keeper, log) = open(folder.path(), LogLimits::default());
        (0..5).for_each(|line| say(&log, format!("line {line}")));
        keeper.close();
        let file = fs::read_dir(keeper.folder_of(&app())).unwrap().next().unwrap().unwrap().path();
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, &bytes[..cut.index(bytes.len())]).unwrap();

        let (keeper, log) = open(folder.path(), LogLimits::default());
        say(&log, "after");
        keeper.close();
        let all = kept(&keeper, ALL, 100);
        let lines: Vec<String> = (0..all.len() - 1).map(|n| format!("line {n}")).collect();
        prop_assert_eq!(texts(&all[..all.len() - 1]), lines);
        prop_assert_eq!(all.last().unwrap().text.as_str(), "after");
    }
}

#[tokio::test]
async fn a_disk_that_cannot_be_written_stops_nothing_and_is_told_of_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let blocked = folder.path().join("logs");
    // A file where the folder should be: every write fails.
    fs::write(&blocked, "").unwrap();
    let (keeper, log) = open(&blocked, LogLimits::default());
    (0..3).for_each(|_| say(&log, "unseen"));
    keeper.flush().await;
    fs::remove_file(&blocked).unwrap();
    say(&log, "seen");
    keeper.flush().await;
    let all = kept(&keeper, ALL, 100);
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(all[0].text.contains("3 pieces of output could not be kept"), "{all:?}");
    assert_eq!(all[1].text, "seen");
    assert_eq!(log.after(log.base(), 100).entries.len(), 4, "followers have everything");
    keeper.close();
}

/// A file system of a quarter of a megabyte, taken away again at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` without root.
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=256k", "small"]).arg(folder.path());
        mount.status().is_ok_and(|status| status.success()).then(|| Self(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_keeps_what_is_there_whole_and_goes_on_once_there_is_room() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("skipped: mounting a small file system needs root");
        return;
    };
    let ballast = disk.0.path().join("ballast");
    fs::write(&ballast, vec![1; 128 << 10]).unwrap();
    let (keeper, log) = open(&disk.0.path().join("logs"), LogLimits::default());
    for line in 0..400 {
        say(&log, format!("line {line} {}", "x".repeat(1000)));
        keeper.flush().await;
    }
    let full = kept(&keeper, ALL, usize::MAX);
    assert!((50..400).contains(&full.len()), "{}", full.len());
    assert!(full.iter().enumerate().all(|(n, entry)| entry.text.starts_with(&format!("line {n} "))));
    fs::remove_file(&ballast).unwrap();
    say(&log, "room again");
    keeper.flush().await;
    keeper.close();
    let after = kept(&keeper, ALL, usize::MAX);
    let lost = 400 - full.len();
    assert_eq!(after.len(), full.len() + 2);
    assert!(after[full.len()].text.contains(&format!("{lost} pieces of output")), "{}", after[full.len()].text);
    assert_eq!(after.last().unwrap().text, "room again");
}

#[test]
fn an_apps_log_stays_within_its_limit_and_keeps_the_newest() {
    let folder = tempfile::tempdir().unwrap();
    let limits = LogLimits { app_bytes: 1 << 20, ..LogLimits::default() };
    for life in 0..4 {
        let (keeper, log) = open(folder.path(), limits);
        (0..1000).for_each(|line| say(&log, format!("life {life} line {line} {}", "x".repeat(1000))));
        keeper.close();
    }
    let (keeper, _) = open(folder.path(), limits);
    let files = fs::read_dir(keeper.folder_of(&app())).unwrap();
    let bytes: u64 = files.map(|f| f.unwrap().metadata().unwrap().len()).sum();
    assert!((1 << 19..=1 << 20).contains(&bytes), "{bytes}");
    let all = kept(&keeper, ALL, usize::MAX);
    assert!(all.last().unwrap().text.starts_with("life 3 line 999 "));
    assert!(all.windows(2).all(|pair| pair[0].sequence < pair[1].sequence));
}

#[tokio::test]
async fn a_forgotten_app_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (keeper, log) = open(folder.path(), LogLimits::default());
    say(&log, "line");
    keeper.flush().await;
    assert_eq!(keeper.apps(), [app()]);
    keeper.forget(app());
    keeper.flush().await;
    assert_eq!(keeper.apps(), []);
    keeper.close();
}

#[test]
fn a_reply_is_cut_at_its_size_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (keeper, log) = open(folder.path(), LogLimits::default());
    (0..100).for_each(|_| say(&log, "x".repeat(100)));
    keeper.close();
    let (newest, before) = log.newest(100, 1000, |_| true);
    assert!(newest.cut && newest.entries.len() == 10);
    let from_disk = Newest::default().add_kept(&keeper.folder_of(&app()), ALL, 100, 1000, |_| true).unwrap();
    assert!(from_disk.cut && from_disk.entries.len() == 10);
    let from_both = log.newest(100, usize::MAX, |_| true).0;
    let range = KeptRange { before, ..ALL };
    let from_both = from_both.add_kept(&keeper.folder_of(&app()), range, 200, usize::MAX, |_| true).unwrap();
    assert_eq!(from_both.entries.len(), 100, "nothing comes twice");
}

#[test]
fn the_app_of_a_container_is_found_by_what_it_printed() {
    let folder = tempfile::tempdir().unwrap();
    let (keeper, log) = open(folder.path(), LogLimits::default());
    let (task, other) = (TaskId::at(1_000), TaskId::at(1_000));
    let origin = Origin { task: Some(task.clone()), ..Origin::default() };
    log.append(2_000, origin, Descriptor::Stdout, "line".to_owned());
    keeper.close();
    let folder = keeper.folder_of(&app());
    let found = |task, budget: &mut usize| has_printed(&folder, task, 1_000, budget).unwrap();
    assert!(found(&task, &mut 1));
    assert!(!found(&other, &mut 1));
    assert!(!found(&task, &mut 0));
}
