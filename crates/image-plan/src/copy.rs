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
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyItem {
    pub source: CopySource,
    /// Absolute in the image.
    pub dest: String,
    /// `Some(name)`: where `dest` is a folder in the image, the file goes to `dest/name` instead.
    pub name_within_folder: Option<String>,
}

/// `sources` and `dest` are already substituted; `dest` may be relative to `workdir`.
pub(crate) fn resolve(
    context: &[ContextFile],
    sources: &[String],
    inline: &[(String, String)],
    dest: &str,
    workdir: &str,
) -> Result<Vec<CopyItem>, String> {
    let dest_is_folder = dest.ends_with('/') || matches!(dest, "." | "..") || dest.ends_with("/.");
    let dest = absolute(dest, workdir);
    let mut found: Vec<Match> = Vec::new();
    for source in sources {
        found.extend(find(context, source)?);
    }
    if found.len() + inline.len() > 1 && !dest_is_folder {
        return Err(format!("several sources need a folder as destination: write `{dest}/`"));
    }
    let mut items = Vec::new();
    if dest_is_folder {
        items.push(CopyItem { source: CopySource::Folder, dest: dest.clone(), name_within_folder: None });
    }
    for (name, body) in inline {
        items.push(place(CopySource::Inline(body.clone()), &dest, name, dest_is_folder));
    }
    for matched in found {
        match matched {
            Match::File(index) => {
                let name = context[index].path.rsplit('/').next().unwrap_or_default();
                items.push(place(CopySource::Context(index), &dest, name, dest_is_folder));
            }
            Match::Folder(prefix) => {
                items.push(CopyItem { source: CopySource::Folder, dest: dest.clone(), name_within_folder: None });
                let below = context.iter().enumerate().filter_map(|(index, file)| {
                    let path = clean(&file.path);
                    let rest = if prefix.is_empty() { &path } else { path.strip_prefix(&prefix)?.strip_prefix('/')? };
                    Some((index, rest.to_owned()))
                });
                for (index, rest) in below {
                    let source = CopySource::Context(index);
                    items.push(CopyItem { source, dest: join(&dest, &rest), name_within_folder: None });
                }
            }
        }
    }
    Ok(items)
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
    if files.is_empty() {
        let what =
            if wildcard { "nothing in the build context matches" } else { "the build context has no file or folder" };
        return Err(format!("{what} `{source}`"));
    }
    Ok(files)
}

fn place(source: CopySource, dest: &str, name: &str, dest_is_folder: bool) -> CopyItem {
    match dest_is_folder {
        true => CopyItem { source, dest: join(dest, name), name_within_folder: None },
        false => CopyItem { source, dest: dest.to_owned(), name_within_folder: Some(name.to_owned()) },
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
        let items = resolve(&context, &sources, &[], dest, "/work")?;
        Ok(items
            .into_iter()
            .filter_map(|item| match item.source {
                CopySource::Context(index) => Some((context[index].path.clone(), item.dest)),
                _ => None,
            })
            .collect())
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
    fn a_missing_source_is_named() {
        assert_eq!(copied(&["/a"], &["b"], "/x"), Err("the build context has no file or folder `b`".to_owned()));
    }
}
