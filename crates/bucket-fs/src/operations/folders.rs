//! Folders: listed page by page, so that memory does not grow with them.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::OwnedSemaphorePermit;

use super::{Answer, Failure, Handle, Mount};
use crate::keys;
use crate::s3::{ListAsk, S3Error};
use crate::tree::{Facts, Kind, Listing, ShownEntry};

/// What stores give at most.
const PAGE: usize = 1_000;
/// Pages in a row that have nothing to show. Stores pass over what was deleted a page at a time, so some may have none;
/// a store that goes on like this keeps a program waiting without end.
const MAX_EMPTY_PAGES: usize = 1_000;

/// Names that are only in the mount yet, and count as one more open folder: each pass has its own list of them.
const NAMES_PER_PLACE: usize = 1_000;

/// A pass over a folder; the kernel reads on at a position that it was told.
pub struct OpenFolder {
    path: String,
    listing: Listing,
    entries: Vec<ShownEntry>,
    /// Position of the first of `entries`.
    first: u64,
    next: Next,
    /// Of the mount's.
    places: Option<OwnedSemaphorePermit>,
}

enum Next {
    Page(Option<String>),
    /// What is only here.
    Rest,
    Nothing,
}

impl Mount {
    pub fn open_folder(&self, number: u64) -> Answer<u64> {
        let (path, kind) = self.path_of(number)?;
        if kind != Kind::Folder {
            return Err(libc::ENOTDIR.into());
        }
        let folder = self.begin_pass(path, &mut None)?;
        Ok(self.add_handle(Handle::Folder(Arc::new(tokio::sync::Mutex::new(folder)))))
    }

    /// Takes `places`, which are those of an earlier pass, unless it fails.
    fn begin_pass(&self, path: String, places: &mut Option<OwnedSemaphorePermit>) -> Answer<OpenFolder> {
        let only_here = self.tree.lock().only_here(&path);
        let wanted = 1 + only_here.len() / NAMES_PER_PLACE;
        let more = wanted.saturating_sub(places.as_ref().map_or(0, OwnedSemaphorePermit::num_permits));
        let more = self.open_folders.clone().try_acquire_many_owned(u32::try_from(more).unwrap_or(u32::MAX));
        let mut more = more.map_err(|_| Failure::from(libc::ENFILE))?;
        if let Some(places) = places.take() {
            more.merge(places);
        }
        let listing = Listing::new(keys::folder_key(&self.spec.prefix, &path), only_here);
        Ok(OpenFolder { path, listing, entries: Vec::new(), first: 0, next: Next::Page(None), places: Some(more) })
    }

    pub fn folder_of(&self, handle: u64) -> Answer<Arc<tokio::sync::Mutex<OpenFolder>>> {
        match self.handle(handle)? {
            Handle::Folder(folder) => Ok(folder),
            _ => Err(libc::EBADF.into()),
        }
    }

    /// Entries from position `at` on: their path, what they are, and their number; none at the end.
    pub async fn entries(&self, folder: &mut OpenFolder, at: u64) -> Answer<Vec<(String, Kind, u64)>> {
        if at < folder.first {
            *folder = self.begin_pass(folder.path.clone(), &mut folder.places)?;
        }
        let mut empty = 0;
        while at >= folder.first + folder.entries.len() as u64 {
            folder.first += folder.entries.len() as u64;
            folder.entries = match &folder.next {
                Next::Page(token) => {
                    if empty == MAX_EMPTY_PAGES {
                        return Err(malformed(&format!("{MAX_EMPTY_PAGES} pages of a listing with nothing in them")));
                    }
                    let token = token.clone();
                    self.next_page(folder, token.as_deref()).await?
                }
                Next::Rest => {
                    folder.next = Next::Nothing;
                    folder.listing.rest()
                }
                Next::Nothing => return Ok(Vec::new()),
            };
            empty = if folder.entries.is_empty() { empty + 1 } else { 0 };
        }
        let tree = self.tree.lock();
        let shown = folder.entries.iter().skip((at - folder.first) as usize).map(|entry| {
            let path = keys::join(&folder.path, &entry.name);
            let number = tree.nodes.shown(&path, entry.kind);
            (entry.name.clone(), entry.kind, number)
        });
        Ok(shown.collect())
    }

    async fn next_page(&self, folder: &mut OpenFolder, token: Option<&str>) -> Answer<Vec<ShownEntry>> {
        let prefix = keys::folder_key(&self.spec.prefix, &folder.path);
        let page = self.s3.list(ListAsk { prefix: &prefix, by_folder: true, limit: PAGE, token }).await?;
        if page.next.is_some() && page.next.as_deref() == token {
            return Err(malformed("a page of a listing that is its own next one"));
        }
        folder.next = page.next.clone().map_or(Next::Rest, |token| Next::Page(Some(token)));
        let entries = folder.listing.on_page(page);
        let (mut tree, now) = (self.tree.lock(), Instant::now());
        for entry in &entries {
            let facts = match &entry.object {
                Some(object) => Facts::file(object.size, object.modified, object.etag.clone()),
                None => Facts::folder(),
            };
            tree.learn(&keys::join(&folder.path, &entry.name), facts, now);
        }
        Ok(entries)
    }

    pub fn release_folder(&self, handle: u64) {
        self.handles.lock().remove(&handle);
    }
}

fn malformed(what: &str) -> Failure {
    S3Error::Malformed(what.to_owned()).into()
}

#[cfg(test)]
mod tests {
    use super::super::MAX_OPEN_FOLDERS;
    use super::NAMES_PER_PLACE;
    use crate::testing::Store;
    use crate::tree::ROOT;

    #[tokio::test]
    async fn folders_that_are_open_at_once_are_bounded_also_when_they_are_read_again() {
        let store = Store::start().await;
        store.put("f", b"x");
        let mount = store.mount();
        let handles: Vec<u64> = (0..MAX_OPEN_FOLDERS).map(|_| mount.open_folder(ROOT).unwrap()).collect();
        let folder = mount.folder_of(handles[0]).unwrap();
        for _ in 0..2 {
            let mut folder = folder.lock().await;
            assert_eq!(mount.entries(&mut folder, 0).await.unwrap().len(), 1);
            assert!(mount.entries(&mut folder, 1).await.unwrap().is_empty());
        }
        drop(folder);
        assert_eq!(mount.open_folder(ROOT).unwrap_err().errno, libc::ENFILE);
        mount.release_folder(handles[0]);
        mount.open_folder(ROOT).unwrap();
    }

    #[tokio::test]
    async fn folders_with_many_names_that_are_only_here_count_as_several() {
        let store = Store::start().await;
        let mount = store.mount();
        let first = mount.open_folder(ROOT).unwrap();
        for number in 0..3 * NAMES_PER_PLACE {
            mount.tree.lock().make_folder(&number.to_string());
        }
        let more = std::iter::from_fn(|| mount.open_folder(ROOT).ok()).count();
        assert_eq!(more, (MAX_OPEN_FOLDERS - 1) / 4);
        // Three are left, and reading the first one again takes as many more.
        let folder = mount.folder_of(first).unwrap();
        let mut folder = folder.lock().await;
        assert_eq!(mount.entries(&mut folder, 0).await.unwrap().len(), 0);
        folder.first = 1;
        assert_eq!(mount.entries(&mut folder, 0).await.unwrap().len(), 3 * NAMES_PER_PLACE);
        assert_eq!(mount.open_folders.available_permits(), 0);
    }

    /// How the first entries of the folder are told of.
    async fn listed(answer: impl Fn(&str) -> String + Send + 'static) -> Result<usize, String> {
        let store = Store::start().await;
        store.answer_listings(answer);
        let mount = store.mount();
        let folder = mount.folder_of(mount.open_folder(ROOT).unwrap()).unwrap();
        let mut folder = folder.lock().await;
        let entries = mount.entries(&mut folder, 0).await;
        entries.map(|entries| entries.len()).map_err(|failure| failure.reason.unwrap())
    }

    fn page(keys: &[&str], next: &str) -> String {
        let contents: String =
            keys.iter().map(|key| format!("<Contents><Key>{key}</Key><Size>1</Size></Contents>")).collect();
        let next = format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{next}</NextContinuationToken>");
        format!("<ListBucketResult>{contents}{next}</ListBucketResult>")
    }

    #[tokio::test]
    async fn a_listing_that_comes_to_no_end_is_an_error() {
        let same = listed(|_| page(&[], "same")).await.unwrap_err();
        assert!(same.contains("its own next one"), "{same}");
        let count = |token: &str| token.parse().unwrap_or(0) + 1;
        let empty = listed(move |token| page(&[], &count(token).to_string())).await.unwrap_err();
        assert!(empty.contains("nothing in them"), "{empty}");
        let late =
            move |token: &str| page(if count(token) > 30 { &["a", "b"] } else { &[] }, &count(token).to_string());
        assert_eq!(listed(late).await, Ok(2));
    }
}
