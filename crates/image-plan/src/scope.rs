//! What `$NAME` means at one place of a stage.

use std::collections::BTreeMap;

use crate::config::ImageConfig;
use crate::expand::{expand, expand_body};
use crate::instruction::Kind;

/// What a stage's ARG takes a value from besides its default.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Given<'a> {
    pub build_args: &'a BTreeMap<String, String>,
    /// ARGs before the first FROM.
    pub global: &'a BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Scope {
    pub config: ImageConfig,
    /// Build arguments that were declared and have a value.
    pub arguments: BTreeMap<String, String>,
}

impl Scope {
    pub fn lookup(&self, name: &str) -> Option<String> {
        self.config.env(name).map(str::to_owned).or_else(|| self.arguments.get(name).cloned())
    }

    pub fn substitute(&self, word: &str, escape: char) -> Result<String, String> {
        expand(word, escape, &|name| self.lookup(name))
    }

    pub fn substitute_body(&self, text: &str, escape: char) -> Result<String, String> {
        expand_body(text, escape, &|name| self.lookup(name))
    }

    /// Takes in an ARG or ENV; other instructions change no variable.
    pub fn see(&mut self, kind: &Kind, escape: char, given: Given<'_>) -> Result<(), String> {
        match kind {
            Kind::Arg(arguments) => {
                for (name, default) in arguments {
                    self.argument(name, default.as_deref(), escape, given)?;
                }
            }
            Kind::Env(pairs) => {
                // All values of one ENV see the variables as they were before it.
                let pairs: Vec<(String, String)> = pairs
                    .iter()
                    .map(|(name, value)| Ok((self.substitute(name, escape)?, self.substitute(value, escape)?)))
                    .collect::<Result<_, String>>()?;
                pairs.iter().for_each(|(name, value)| self.config.set_env(name, value));
            }
            _ => {}
        }
        Ok(())
    }

    /// `ARG name[=default]`: the caller's value, else the default, else the one from before FROM, else the builder's own.
    fn argument(&mut self, name: &str, default: Option<&str>, escape: char, given: Given<'_>) -> Result<(), String> {
        let value = match (given.build_args.get(name), default) {
            (Some(value), _) => Some(value.clone()),
            (None, Some(default)) => Some(self.substitute(default, escape)?),
            (None, None) => given.global.get(name).cloned().or_else(|| platform_argument(name)),
        };
        match value {
            Some(value) => self.arguments.insert(name.to_owned(), value),
            None => self.arguments.remove(name),
        };
        Ok(())
    }
}

/// Arguments that every builder defines by itself.
pub(crate) fn platform_argument(name: &str) -> Option<String> {
    let value = match name {
        "TARGETPLATFORM" | "BUILDPLATFORM" => "linux/amd64",
        "TARGETOS" | "BUILDOS" => "linux",
        "TARGETARCH" | "BUILDARCH" => "amd64",
        "TARGETVARIANT" | "BUILDVARIANT" => "",
        _ => return None,
    };
    Some(value.to_owned())
}

/// Build arguments that RUN sees without an ARG. They say where downloads go through, not what they give, so they are
/// in no key.
pub(crate) fn is_proxy_argument(name: &str) -> bool {
    let names = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];
    names.iter().any(|known| *known == name || known.to_ascii_lowercase() == name)
}
