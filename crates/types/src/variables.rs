//! Environment variables that hide their values.
//!
//! Most values are paths and settings, some are secrets, and nothing tells them apart. So a structure that carries
//! variables can be logged with `{:?}` as a whole, and what is seen of them is their names. What is still possible:
//! whoever takes a value out and writes it.

use std::fmt;
use std::ops::{Deref, DerefMut};

use serde::{Deserialize, Serialize};

/// A program's environment, in the order given.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Variables(pub Vec<(String, String)>);

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl From<Vec<(String, String)>> for Variables {
    fn from(variables: Vec<(String, String)>) -> Self {
        Self(variables)
    }
}

impl Deref for Variables {
    type Target = Vec<(String, String)>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Variables {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_and_values_are_not() {
        let variables = Variables(vec![("TOKEN".to_owned(), "hush".to_owned()), ("EMPTY".to_owned(), String::new())]);
        assert_eq!(format!("{variables:?}"), r#"{"TOKEN", "EMPTY"}"#);
        assert!(!format!("{variables:#?}").contains("hush"));
        assert_eq!(variables.len(), 2);
    }
}
