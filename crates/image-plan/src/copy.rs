//! COPY: which files of the build context go where.
//!
//! The context is known as a flat list of files; folders are implied by their paths. One question cannot be answered
//! here: whether the destination of a single file is a folder in the image already. The plan then carries both answers
//! ([`CopyItem::name_within_folder`]) and the builder looks.

use std::collections::BTreeSet;

use crate::glob;

/// One file of the build context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextFile {
    /// Absolute within the context: `/src/main.py`.
    pub path: String,
    /// Of the content; any form, as long as equal contents have equal digests.
    pub digest: String,
    /// Permission bits.
    pub mode: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopySource {
    /// Index into the facts' context.
    Context(usize),
    /// A here-document.
    Inline(String),
    /// A folder to make, so that an existing destination keeps its attributes.
    Folder,
    /// To be downloaded; `checksum` is `sha256:` and 64 digits.
    Url { url: String, checksum: Option<String> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyItem {
    pub source: CopySource,
    /// Absolute in the image.
    pub dest: String,
    /// `Some(name)`: where `dest` is a folder in the image, the file goes to `dest/name` instead.
    pub name_within_folder: Option<String>,
    /// `Some(folder)`: where it is an archive, its contents go there instead. Only its bytes can tell.
    pub unpack_into: Option<String>,
}

impl CopyItem {
    pub(crate) fn to(source: CopySource, dest: impl Into<String>) -> Self {
        Self { source, dest: dest.into(), name_within_folder: None, unpack_into: None }
    }
}

/// What is copied where; variables are substituted already.
pub(crate) struct Wanted<'a> {
    pub sources: &'a [String],
    pub inline: &'a [(String, String)],
    /// URLs with what they are checked against.
    pub urls: &'a [(String, Option<String>)],
    /// May be relative to `workdir`.
    pub dest: &'a str,
    pub workdir: &'a str,
    /// Patterns of what is left out, relative to the source.
    pub exclude: &'a [String],
    /// Whether files and downloads that are archives are unpacked.
    pub unpack_files: bool,
    pub unpack_urls: bool,
}

pub(crate) fn resolve(context: &[ContextFile], wanted: &Wanted<'_>) -> Result<Vec<CopyItem>, String> {
    let Wanted { sources, inline, urls, dest, workdir, .. } = *wanted;
    let dest_is_folder = is_folder_name(dest);
    let dest = absolute(dest, workdir);
    let mut found: Vec<Match> = Vec::new();
    for source in sources {
        found.extend(find(context, source)?);
    }
    if found.len() + inline.len() + urls.len() > 1 && !dest_is_folder {
        return Err(format!("several sources need a folder as destination: write `{dest}/`"));
    }
    let unpack_into = |unpack: bool| unpack.then(|| dest.clone());
    let mut items = Vec::new();
    if dest_is_folder {
        items.push(CopyItem::to(CopySource::Folder, &dest));
    }
    for (name, body) in inline {
        items.push(place(CopySource::Inline(body.clone()), &dest, name, dest_is_folder));
    }
    for (url, checksum) in urls {
        let name = url_file_name(url);
        let source = CopySource::Url { url: url.clone(), checksum: checksum.clone() };
        let unpack_into = unpack_into(wanted.unpack_urls);
        items.push(match name {
            Some(name) => CopyItem { unpack_into, ..place(source, &dest, &name, dest_is_folder) },
            None if dest_is_folder && unpack_into.is_none() => {
                return Err(format!("`{url}` has no file name: write the whole destination, like `{dest}/name`"));
            }
            None => CopyItem { unpack_into, ..CopyItem::to(source, &dest) },
        });
    }
    let excluded = |path: &str| wanted.exclude.iter().any(|pattern| glob::excludes(pattern, path));
    for matched in found {
        match matched {
            Match::File(index) => {
                let name = context[index].path.rsplit('/').next().unwrap_or_default();
                if !excluded(name) {
                    let unpack_into = unpack_into(wanted.unpack_files);
                    let item = place(CopySource::Context(index), &dest, name, dest_is_folder);
                    items.push(CopyItem { unpack_into, ..item });
                }
            }
            Match::Folder(prefix) => {
                items.push(CopyItem::to(CopySource::Folder, &dest));
                for (index, rest) in below(context, &prefix).filter(|(_, rest)| !excluded(rest)) {
                    items.push(CopyItem::to(CopySource::Context(index), join(&dest, &rest)));
                }
            }
        }
    }
    Ok(items)
}

pub(crate) fn is_folder_name(dest: &str) -> bool {
    dest.ends_with('/') || matches!(dest, "." | "..") || dest.ends_with("/.")
}

/// The files of a folder of the context, with their paths in it.
fn below<'a>(context: &'a [ContextFile], prefix: &'a str) -> impl Iterator<Item = (usize, String)> + 'a {
    context.iter().enumerate().filter_map(move |(index, file)| {
        let path = clean(&file.path);
        let rest = if prefix.is_empty() { &path } else { path.strip_prefix(prefix)?.strip_prefix('/')? };
        Some((index, rest.to_owned()))
    })
}

/// A file of the context, or a folder's files with their paths in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContextPart {
    File(usize),
    Folder(Vec<(usize, String)>),
}

/// What a mount of the context shows.
pub(crate) fn part(context: &[ContextFile], source: &str) -> Result<ContextPart, String> {
    let wanted = clean(source);
    if let Some(index) = context.iter().position(|file| clean(&file.path) == wanted) {
        return Ok(ContextPart::File(index));
    }
    let files: Vec<(usize, String)> = below(context, &wanted).collect();
    match files.is_empty() && !wanted.is_empty() {
        true => Err(format!("the build context has no file or folder `{source}`")),
        false => Ok(ContextPart::Folder(files)),
    }
}

/// The last part of a URL's path, as far as it has one.
fn url_file_name(url: &str) -> Option<String> {
    let path = url.split(['?', '#']).next()?.split_once("://")?.1;
    let name = path.split_once('/')?.1.rsplit('/').next()?;
    (!name.is_empty() && name != "." && name != "..").then(|| name.to_owned())
}

enum Match {
    File(usize),
    /// Path without a leading slash; empty for the whole context.
    Folder(String),
}

fn find(context: &[ContextFile], source: &str) -> Result<Vec<Match>, String> {
    let wanted = clean(source);
    let wildcard = glob::has_wildcard(&wanted);
    let matches = |path: &str| if wildcard { glob::matches_path(&wanted, path) } else { wanted == path };
    if wanted.is_empty() {
        return Ok(vec![Match::Folder(String::new())]);
    }
    let mut files = Vec::new();
    let mut folders = BTreeSet::new();
    for (index, file) in context.iter().enumerate() {
        let path = clean(&file.path);
        if matches(&path) {
            files.push(Match::File(index));
        }
        let slashes = path.match_indices('/').map(|(at, _)| &path[..at]);
        folders.extend(slashes.filter(|folder| matches(folder)).map(str::to_owned));
    }
    files.extend(folders.into_iter().map(Match::Folder));
    // A pattern may match nothing, as in every current builder: `COPY uv.lock* ./` is how a file is made optional.
    if files.is_empty() && !wildcard {
        return Err(format!("the build context has no file or folder `{source}`"));
    }
    Ok(files)
}

fn place(source: CopySource, dest: &str, name: &str, dest_is_folder: bool) -> CopyItem {
    match dest_is_folder {
        true => CopyItem::to(source, join(dest, name)),
        false => CopyItem { name_within_folder: Some(name.to_owned()), ..CopyItem::to(source, dest) },
    }
}

/// An absolute path without `.`, `..` and doubled slashes; `..` never leaves the root.
pub(crate) fn absolute(path: &str, workdir: &str) -> String {
    let full = if path.starts_with('/') { path.to_owned() } else { format!("{workdir}/{path}") };
    format!("/{}", clean(&full))
}

fn join(folder: &str, rest: &str) -> String {
    format!("{}/{rest}", folder.trim_end_matches('/'))
}

fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(paths: &[&str]) -> Vec<ContextFile> {
        paths
            .iter()
            .map(|path| ContextFile { path: (*path).to_owned(), digest: format!("d{path}"), mode: 0o644 })
            .collect()
    }

    fn copied(paths: &[&str], sources: &[&str], dest: &str) -> Result<Vec<(String, String)>, String> {
        let context = context(paths);
        let sources: Vec<String> = sources.iter().map(|source| (*source).to_owned()).collect();
        let items = resolve(&context, &wanted(&sources, dest))?;
        Ok(items
            .into_iter()
            .filter_map(|item| match item.source {
                CopySource::Context(index) => Some((context[index].path.clone(), item.dest)),
                _ => None,
            })
            .collect())
    }

    fn wanted<'a>(sources: &'a [String], dest: &'a str) -> Wanted<'a> {
        Wanted {
            sources,
            inline: &[],
            urls: &[],
            dest,
            workdir: "/work",
            exclude: &[],
            unpack_files: false,
            unpack_urls: false,
        }
    }

    fn pair(from: &str, to: &str) -> (String, String) {
        (from.to_owned(), to.to_owned())
    }

    #[test]
    fn a_folder_is_copied_by_its_contents() {
        let found = copied(&["/src/a.py", "/src/deep/b.py", "/srcx"], &["src"], "/app").unwrap();
        assert_eq!(found, [pair("/src/a.py", "/app/a.py"), pair("/src/deep/b.py", "/app/deep/b.py")]);
    }

    #[test]
    fn the_whole_context_can_be_copied_onto_the_root() {
        assert_eq!(copied(&["/root/a.py"], &["."], "/").unwrap(), [pair("/root/a.py", "/root/a.py")]);
    }

    #[test]
    fn a_relative_destination_is_below_the_working_directory() {
        assert_eq!(copied(&["/a"], &["a"], "./").unwrap(), [pair("/a", "/work/a")]);
        assert_eq!(copied(&["/a"], &["/a"], "b").unwrap(), [pair("/a", "/work/b")]);
    }

    #[test]
    fn several_sources_need_a_folder() {
        assert!(copied(&["/a", "/b"], &["a", "b"], "/x").is_err());
        assert!(copied(&["/a", "/b"], &["?"], "/x").is_err());
        assert_eq!(copied(&["/a", "/b"], &["?"], "/x/").unwrap().len(), 2);
    }

    #[test]
    fn a_path_never_leaves_context_or_image() {
        assert_eq!(copied(&["/a"], &["../../a"], "/../../x").unwrap(), [pair("/a", "/x")]);
    }

    #[test]
    fn what_is_excluded_is_left_out_below_each_source() {
        let context = context(&["/src/a.py", "/src/a.pyc", "/src/deep/b.pyc", "/src/deep/b.py"]);
        let (sources, exclude) = (["src".to_owned()], ["**/*.pyc".to_owned()]);
        let items = resolve(&context, &Wanted { exclude: &exclude, ..wanted(&sources, "/x") }).unwrap();
        let copied: Vec<&str> = items[1..].iter().map(|item| item.dest.as_str()).collect();
        assert_eq!(copied, ["/x/a.py", "/x/deep/b.py"]);
    }

    #[test]
    fn a_download_is_named_by_the_last_part_of_its_path() {
        assert_eq!(url_file_name("https://host/a/b.txt?x=/y#z").as_deref(), Some("b.txt"));
        for nameless in ["https://host", "https://host/", "https://host/a/", "https://host/.."] {
            assert_eq!(url_file_name(nameless), None, "{nameless}");
        }
        let urls = [("https://host/".to_owned(), None)];
        assert!(resolve(&[], &Wanted { urls: &urls, ..wanted(&[], "/x/") }).unwrap_err().contains("no file name"));
        assert_eq!(resolve(&[], &Wanted { urls: &urls, ..wanted(&[], "/x") }).unwrap()[0].dest, "/x");
    }

    #[test]
    fn a_pattern_may_match_nothing() {
        assert_eq!(copied(&["/a"], &["a", "b*"], "/x/").unwrap(), [pair("/a", "/x/a")]);
        assert_eq!(copied(&["/a"], &["b*"], "/x/").unwrap(), []);
    }

    #[test]
    fn a_missing_source_is_named() {
        assert_eq!(copied(&["/a"], &["b"], "/x"), Err("the build context has no file or folder `b`".to_owned()));
    }
}
