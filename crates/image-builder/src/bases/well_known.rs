//! Which references can be made from a Debian mirror. Pure.

use image_plan::{KeyHasher, LayerKey, Reference};

/// A root filesystem that mmdebstrap can make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum DebianBase {
    Bookworm,
    Trixie,
    /// Bookworm with its Python 3.11.
    Python311,
    /// Trixie with its Python 3.13.
    Python313,
}

impl DebianBase {
    /// The base that stands in for a reference. Patch versions and variants (`-slim`, `-bookworm`) are not told apart:
    /// Debian has one Python of each minor version.
    pub fn for_reference(reference: &Reference) -> Option<Self> {
        let tag = reference.tag.as_deref().unwrap_or("latest");
        if reference.digest.is_some() || tag.contains("alpine") || tag.contains("windows") {
            return None;
        }
        let (version, _variant) = tag.split_once('-').unwrap_or((tag, ""));
        match reference.official_name()? {
            "python" => Self::for_python(version),
            "debian" => match version {
                "bookworm" | "12" | "oldstable" => Some(Self::Bookworm),
                "trixie" | "13" | "stable" | "latest" => Some(Self::Trixie),
                _ if version.starts_with("12.") => Some(Self::Bookworm),
                _ if version.starts_with("13.") => Some(Self::Trixie),
                _ => None,
            },
            _ => None,
        }
    }

    /// `version` is `3.11`, `3.11.4`, ...
    pub fn for_python(version: &str) -> Option<Self> {
        let mut parts = version.split('.');
        match (parts.next()?, parts.next()?) {
            ("3", "11") => Some(Self::Python311),
            ("3", "13") => Some(Self::Python313),
            _ => None,
        }
    }

    pub fn suite(self) -> &'static str {
        match self {
            Self::Bookworm | Self::Python311 => "bookworm",
            Self::Trixie | Self::Python313 => "trixie",
        }
    }

    pub fn python(self) -> Option<&'static str> {
        match self {
            Self::Python311 => Some("3.11"),
            Self::Python313 => Some("3.13"),
            Self::Bookworm | Self::Trixie => None,
        }
    }

    /// For logs.
    pub fn title(self) -> String {
        match self.python() {
            Some(python) => format!("Debian {} with Python {python}", self.suite()),
            None => format!("Debian {}", self.suite()),
        }
    }

    /// The number goes up when the recipe in `debian.rs` changes what it makes.
    pub fn layer_key(self) -> LayerKey {
        KeyHasher::new("debian base 1").field(self.suite()).field(self.python().unwrap_or_default()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(text: &str) -> Option<DebianBase> {
        DebianBase::for_reference(&Reference::parse(text).unwrap())
    }

    #[test]
    fn every_tag_of_a_known_python_is_the_same_base() {
        for tag in ["3.11", "3.11.12-slim-bookworm", "3.11-slim", "3.11.0-slim-bullseye", "3.11-bookworm"] {
            assert_eq!(base(&format!("python:{tag}")), Some(DebianBase::Python311), "{tag}");
        }
        assert_eq!(base("docker.io/library/python:3.13-slim-trixie"), Some(DebianBase::Python313));
    }

    #[test]
    fn debian_is_known_by_name_and_number() {
        assert_eq!(base("debian"), Some(DebianBase::Trixie));
        assert_eq!(base("debian:12-slim"), Some(DebianBase::Bookworm));
        assert_eq!(base("debian:bookworm-20250520-slim"), Some(DebianBase::Bookworm));
    }

    #[test]
    fn what_debian_cannot_give_is_left_to_a_registry() {
        for text in
            ["python:3.12", "python:3.110", "python:3.11-alpine", "ghcr.io/x/python:3.11", "ubuntu:22.04", "debian:11"]
        {
            assert_eq!(base(text), None, "{text}");
        }
    }
}
