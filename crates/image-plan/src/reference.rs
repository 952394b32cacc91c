//! Image references: `[registry/]path[:tag][@sha256:...]`.

use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// Host, with its port when there is one. Docker's hub when the reference names none.
    pub registry: String,
    pub repository: String,
    pub tag: Option<String>,
    /// `sha256:` and 64 digits. Wins over the tag.
    pub digest: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an image reference: {reason}")]
pub struct ReferenceError {
    text: String,
    reason: &'static str,
}

impl Reference {
    pub const DOCKER_HUB: &'static str = "docker.io";

    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let error = |reason| ReferenceError { text: text.to_owned(), reason };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.to_owned())),
            None => (text, None),
        };
        if digest.as_deref().is_some_and(|digest| !is_digest(digest)) {
            return Err(error("after `@` comes `sha256:` and 64 hexadecimal digits"));
        }
        // A colon after the last slash begins a tag; one before it belongs to the registry's port.
        let name_start = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (path, tag) = match rest[name_start..].find(':') {
            Some(colon) => (&rest[..name_start + colon], Some(rest[name_start + colon + 1..].to_owned())),
            None => (rest, None),
        };
        if tag.as_deref().is_some_and(|tag| !is_tag(tag)) {
            return Err(error("a tag is up to 128 letters, digits, `_`, `.` and `-`"));
        }
        let (registry, repository) = match path.split_once('/') {
            Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => {
                (host.to_owned(), path.to_owned())
            }
            _ => (Self::DOCKER_HUB.to_owned(), path.to_owned()),
        };
        let hub = matches!(registry.as_str(), "docker.io" | "index.docker.io" | "registry-1.docker.io");
        let registry = if hub { Self::DOCKER_HUB.to_owned() } else { registry };
        let repository = if hub && !repository.contains('/') { format!("library/{repository}") } else { repository };
        if !is_host(&registry) {
            return Err(error("its registry is not a host name with an optional port"));
        }
        if !repository.split('/').all(is_path_component) {
            return Err(error("its name is made of lower-case letters, digits, `.`, `_`, `-` and `/`"));
        }
        Ok(Self { registry, repository, tag, digest })
    }

    /// What is asked of the registry: the digest, else the tag, else `latest`.
    pub fn version(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }

    /// The repository as people write it when it is an official image of the hub: `python`, `debian`.
    pub fn official_name(&self) -> Option<&str> {
        (self.registry == Self::DOCKER_HUB).then(|| self.repository.strip_prefix("library/"))?
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        match (&self.tag, &self.digest) {
            (Some(tag), Some(digest)) => write!(f, ":{tag}@{digest}"),
            (_, Some(digest)) => write!(f, "@{digest}"),
            (tag, None) => write!(f, ":{}", tag.as_deref().unwrap_or("latest")),
        }
    }
}

fn is_host(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':');
    text.bytes().all(plain) && text.starts_with(|c: char| c.is_ascii_alphanumeric())
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn is_tag(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    !text.is_empty() && text.len() <= 128 && text.bytes().all(plain) && !text.starts_with(['.', '-'])
}

fn is_path_component(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.' | b'-');
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.bytes().all(plain) && edge(text.chars().next()) && edge(text.chars().last())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        Reference::parse(text).unwrap().to_string()
    }

    #[test]
    fn a_short_name_is_an_official_image_of_the_hub() {
        assert_eq!(shown("python"), "docker.io/library/python:latest");
        assert_eq!(shown("python:3.11-slim"), "docker.io/library/python:3.11-slim");
        assert_eq!(shown("user/thing"), "docker.io/user/thing:latest");
        assert_eq!(shown("docker.io/python:3.11"), "docker.io/library/python:3.11");
        assert_eq!(Reference::parse("python:3").unwrap().official_name(), Some("python"));
    }

    #[test]
    fn a_host_has_a_dot_or_a_port() {
        assert_eq!(shown("ghcr.io/astral-sh/uv:0.5"), "ghcr.io/astral-sh/uv:0.5");
        assert_eq!(shown("localhost:5000/a/b"), "localhost:5000/a/b:latest");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "A/b", "python:", "python:-x", "python@sha256:12", "a//b", "../x", "a b"] {
            assert!(Reference::parse(text).is_err(), "{text}");
        }
    }
}
