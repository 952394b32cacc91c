//! `RUN --mount=type=...,name=value,...`: what is visible while one RUN runs, and is in no layer.

use types::owners;

use crate::copy::absolute;
use crate::key::KeyHasher;

/// A mount as written, with variables substituted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountOptions {
    kind: String,
    pairs: Vec<(String, String)>,
}

/// How builds that run at the same time use one cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Together.
    Shared,
    /// Each its own.
    Private,
    /// One after the other.
    Locked,
}

/// Owner and mode of what a mount makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owned {
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
}

/// A volume that a build sees, as it is part of keys. What the volume holds is part of none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct VolumeMount {
    /// Absolute, without `.` and `..`. First here: sorted volumes have an outer one before those inside it.
    pub target: String,
    pub id: String,
    pub read_only: bool,
    /// Only this folder of the volume is seen, at `target`.
    pub sub_path: Option<String>,
}

impl VolumeMount {
    /// Nothing is added to keys where there are no volumes, so those are what they were before there were any.
    pub fn add_to(&self, hasher: KeyHasher) -> KeyHasher {
        let hasher = hasher.field("volume").field(&self.target).field(&self.id).field([u8::from(self.read_only)]);
        hasher.list(&self.sub_path)
    }
}

impl MountOptions {
    /// Splits the flag's value and puts it in order; `substitute` also takes quotes away.
    pub fn parse(value: &str, substitute: impl Fn(&str) -> Result<String, String>) -> Result<Self, String> {
        let mut kind = "bind".to_owned();
        let mut pairs: Vec<(String, String)> = Vec::new();
        for part in split_at_commas(value) {
            let part = substitute(part)?;
            let (name, value) = match part.split_once('=') {
                Some((name, value)) => (name.to_ascii_lowercase(), value.to_owned()),
                None => (part.to_ascii_lowercase(), "true".to_owned()),
            };
            let name = match name.as_str() {
                "dst" | "destination" => "target",
                "src" => "source",
                "ro" => "readonly",
                "rw" => "readwrite",
                name => name,
            };
            match name {
                "type" => kind = value.to_ascii_lowercase(),
                _ if pairs.iter().any(|(known, _)| known == name) => {
                    return Err(format!("`--mount`: `{name}` is given twice"));
                }
                _ => pairs.push((name.to_owned(), value)),
            }
        }
        let options = Self { kind, pairs };
        options.check()?;
        Ok(options)
    }

    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Refuses what this kind of mount does not have.
    fn check(&self) -> Result<(), String> {
        let known: &[&str] = match self.kind.as_str() {
            "bind" => &["target", "source", "from", "readonly", "readwrite"],
            "cache" => &["target", "id", "sharing", "mode", "uid", "gid", "readonly", "readwrite", "from", "source"],
            "secret" => &["target", "id", "source", "env", "required", "mode", "uid", "gid"],
            "tmpfs" => &["target", "size"],
            "ssh" => {
                return Err(
                    "`--mount=type=ssh` is not supported: clone over HTTPS with a token from a secret".to_owned()
                );
            }
            other => {
                return Err(format!("`--mount=type={other}`: there are `bind`, `cache`, `secret` and `tmpfs`"));
            }
        };
        if let Some((name, _)) = self.pairs.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            let known = known.join("`, `");
            return Err(format!("`--mount=type={}` has no option `{name}`, only `{known}`", self.kind));
        }
        if self.kind == "cache" && (self.get("from").is_some() || self.get("source").is_some()) {
            return Err("`--mount=type=cache` begins empty here: `from` and `source` are not supported".to_owned());
        }
        Ok(())
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn flag(&self, name: &str) -> Result<bool, String> {
        match self.get(name) {
            None => Ok(false),
            Some("true" | "1" | "") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(format!("`--mount`: `{name}={other}` is neither `true` nor `false`")),
        }
    }

    /// Absolute, and never `/` itself: the image would be gone.
    pub fn target(&self, workdir: &str) -> Result<Option<String>, String> {
        let Some(target) = self.get("target").filter(|target| !target.is_empty()) else { return Ok(None) };
        match absolute(target, workdir).as_str() {
            "/" => Err("`--mount`: the target cannot be `/`".to_owned()),
            target => Ok(Some(target.to_owned())),
        }
    }

    pub fn required_target(&self, workdir: &str) -> Result<String, String> {
        self.target(workdir)?.ok_or_else(|| format!("`--mount=type={}` needs a `target`", self.kind))
    }

    pub fn sharing(&self) -> Result<Sharing, String> {
        match self.get("sharing") {
            None | Some("shared") => Ok(Sharing::Shared),
            Some("private") => Ok(Sharing::Private),
            Some("locked") => Ok(Sharing::Locked),
            Some(other) => Err(format!("`sharing={other}`: it is `shared`, `private` or `locked`")),
        }
    }

    pub fn owned(&self, mode: u32) -> Result<Owned, String> {
        Ok(Owned { uid: self.id("uid")?, gid: self.id("gid")?, mode: self.mode()?.unwrap_or(mode) })
    }

    fn id(&self, name: &str) -> Result<u32, String> {
        let Some(text) = self.get(name) else { return Ok(0) };
        let id = text.parse().map_err(|_| format!("`--mount`: `{name}={text}` is not a number"))?;
        owners::of_container(id).map_err(|reason| format!("`--mount`: `{name}={text}`: {reason}"))
    }

    fn mode(&self) -> Result<Option<u32>, String> {
        let Some(text) = self.get("mode") else { return Ok(None) };
        let mode = u32::from_str_radix(text.trim_start_matches("0o"), 8).ok().filter(|mode| *mode <= 0o7777);
        mode.map(Some).ok_or_else(|| format!("`--mount`: `mode={text}` is not an octal mode like `0755`"))
    }

    /// `64m`, `1G`, or bytes.
    pub fn size(&self) -> Result<Option<u64>, String> {
        let Some(text) = self.get("size") else { return Ok(None) };
        let lower = text.to_ascii_lowercase();
        let digits = lower.trim_end_matches('b').trim_end_matches('i');
        let (digits, shift) = match digits.chars().last() {
            Some('k') => (&digits[..digits.len() - 1], 10),
            Some('m') => (&digits[..digits.len() - 1], 20),
            Some('g') => (&digits[..digits.len() - 1], 30),
            _ => (digits, 0),
        };
        let size = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
        match size.filter(|size| *size > 0) {
            Some(size) => Ok(Some(size)),
            None => Err(format!("`--mount`: `size={text}` is not a size like `64m`")),
        }
    }
}

/// At commas that are not in quotes.
fn split_at_commas(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut quote) = (0, None);
    for (at, c) in text.char_indices() {
        match quote {
            Some(open) if open == c => quote = None,
            None if matches!(c, '\'' | '"') => quote = Some(c),
            None if c == ',' => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts.retain(|part| !part.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<MountOptions, String> {
        MountOptions::parse(text, |word| Ok(word.replace('"', "")))
    }

    #[test]
    fn short_and_long_names_are_the_same() {
        let options = parsed("type=bind,src=/a,dst=b,rw").unwrap();
        assert_eq!(options, parsed("type=bind,source=/a,destination=b,readwrite=true").unwrap());
        assert_eq!(options.target("/work").unwrap().as_deref(), Some("/work/b"));
        assert_eq!(parsed("target=/x").unwrap().kind(), "bind");
        assert_eq!(parsed("type=cache,\"target=/a,b\"").unwrap().get("target"), Some("/a,b"));
    }

    #[test]
    fn sizes_have_units() {
        let size = |text: &str| parsed(&format!("type=tmpfs,target=/t,size={text}")).unwrap().size();
        assert_eq!(size("64m"), Ok(Some(64 << 20)));
        assert_eq!(size("1GiB"), Ok(Some(1 << 30)));
        assert_eq!(size("4096"), Ok(Some(4096)));
        for wrong in ["", "m", "-1", "0", "99999999999999999g", "é"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let cases = [
            ("type=ssh", "type=ssh"),
            ("type=nfs,target=/x", "type=nfs"),
            ("type=cache,target=/x,from=a", "`from`"),
            ("type=cache,target=/x,wrong=1", "`wrong`"),
            ("type=cache,target=/x,target=/y", "twice"),
        ];
        for (text, sign) in cases {
            assert!(parsed(text).unwrap_err().contains(sign), "{text}");
        }
        let options = parsed("type=cache,target=/,sharing=maybe,mode=9,uid=me").unwrap();
        assert!(options.required_target("/").is_err());
        assert!(options.sharing().is_err() && options.owned(0o755).is_err());
        let owned = |id: &str| parsed(&format!("type=cache,target=/x,gid={id}")).unwrap().owned(0o755);
        assert_eq!(owned("1000650000").unwrap().gid, 1_000_650_000);
        assert!(owned("4294967295").unwrap_err().contains("2147483647"));
    }
}
