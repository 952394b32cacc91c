//! How a request proves to a registry that it may read an image, and which variables of a secret say so. Pure.
//!
//! The client's ways to name a registry differ only in what they expect in the secret. A plain registry's secret may hold
//! a cloud's variables, too: the client's documentation sends people there, so what a secret holds decides.

use std::collections::BTreeMap;
use std::fmt;

use super::config::Credentials;

/// What the client says about a registry's secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistryAuthKind {
    /// Anybody may read it.
    Public,
    /// A user and a password, or whatever else the secret holds.
    Static,
    /// Amazon's Elastic Container Registry.
    Aws,
    /// Google's Artifact Registry.
    Gcp,
}

/// How to show oneself to a registry. It does not print what must stay secret.
#[derive(Clone, PartialEq, Eq)]
pub enum RegistryAuth {
    Basic(Credentials),
    /// Exchanged for a password that lasts for hours.
    AwsEcr(AwsKeys),
}

/// An access key of Amazon's.
#[derive(Clone, PartialEq, Eq)]
pub struct AwsKeys {
    pub access_key_id: String,
    pub secret_access_key: String,
    /// Keys that were given for a limited time come with one.
    pub session_token: Option<String>,
    pub region: String,
}

const USER: &str = "REGISTRY_USERNAME";
const PASSWORD: &str = "REGISTRY_PASSWORD";
const AWS_ID: &str = "AWS_ACCESS_KEY_ID";
const AWS_SECRET: &str = "AWS_SECRET_ACCESS_KEY";
const AWS_TOKEN: &str = "AWS_SESSION_TOKEN";
const AWS_REGION: &str = "AWS_REGION";
const AWS_ROLE: &str = "AWS_ROLE_ARN";
const GCP_JSON: &str = "SERVICE_ACCOUNT_JSON";

/// What a registry of Google's takes as user when the password is a service account's key.
const GCP_USER: &str = "_json_key";

impl RegistryAuth {
    /// From a secret's variables. The error is a whole sentence: what is missing, and what to do.
    pub fn from_secret(kind: RegistryAuthKind, variables: &BTreeMap<String, String>) -> Result<Option<Self>, String> {
        let has = |name| variables.get(name).is_some_and(|value| !value.trim().is_empty());
        match kind {
            RegistryAuthKind::Public => Ok(None),
            RegistryAuthKind::Aws => aws(variables).map(Some),
            RegistryAuthKind::Gcp => gcp(variables).map(Some),
            RegistryAuthKind::Static if has(USER) || has(PASSWORD) => basic(variables).map(Some),
            RegistryAuthKind::Static if has(AWS_ID) || has(AWS_SECRET) || has(AWS_ROLE) => aws(variables).map(Some),
            RegistryAuthKind::Static if has(GCP_JSON) => gcp(variables).map(Some),
            RegistryAuthKind::Static => basic(variables).map(Some),
        }
    }

    /// What tells those who ask apart, for remembering who was given a private image.
    pub(crate) fn identity(&self) -> [&str; 2] {
        match self {
            Self::Basic(login) => [&login.user, &login.password],
            Self::AwsEcr(keys) => [&keys.access_key_id, &keys.secret_access_key],
        }
    }
}

fn basic(variables: &BTreeMap<String, String>) -> Result<RegistryAuth, String> {
    let for_what = "a private registry";
    let user = required(variables, USER, for_what)?;
    let password = required(variables, PASSWORD, for_what)?;
    Ok(RegistryAuth::Basic(Credentials { user, password }))
}

fn aws(variables: &BTreeMap<String, String>) -> Result<RegistryAuth, String> {
    let for_what = "Amazon's container registry";
    let given = |name| optional(variables, name);
    if given(AWS_ROLE).is_some() && given(AWS_ID).is_none() {
        return Err(format!(
            "the registry's secret has `{AWS_ROLE}` and no access key: logging in to a role needs an identity token from \
             a server that Amazon trusts, which this one is not; put `{AWS_ID}`, `{AWS_SECRET}` and `{AWS_REGION}` into \
             the secret instead"
        ));
    }
    let keys = AwsKeys {
        access_key_id: required(variables, AWS_ID, for_what)?,
        secret_access_key: required(variables, AWS_SECRET, for_what)?,
        session_token: given(AWS_TOKEN),
        region: required(variables, AWS_REGION, for_what)?,
    };
    // It becomes part of a host name.
    if !keys.region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        return Err(format!("`{AWS_REGION}` of the registry's secret is not a region, such as `us-east-1`"));
    }
    Ok(RegistryAuth::AwsEcr(keys))
}

fn gcp(variables: &BTreeMap<String, String>) -> Result<RegistryAuth, String> {
    let json = required(variables, GCP_JSON, "Google's Artifact Registry")?;
    let key: Option<serde_json::Map<String, serde_json::Value>> = serde_json::from_str(&json).ok();
    if key.is_none() {
        return Err(format!(
            "`{GCP_JSON}` of the registry's secret is not JSON: put the text of the service account's key file there, \
             not its path"
        ));
    }
    Ok(RegistryAuth::Basic(Credentials { user: GCP_USER.to_owned(), password: json }))
}

fn optional(variables: &BTreeMap<String, String>, name: &str) -> Option<String> {
    // A value pasted with its newline is one of the usual mistakes, and no key begins or ends with a space.
    variables.get(name).map(|value| value.trim()).filter(|value| !value.is_empty()).map(str::to_owned)
}

fn required(variables: &BTreeMap<String, String>, name: &str, for_what: &str) -> Result<String, String> {
    optional(variables, name).ok_or_else(|| {
        format!("the registry's secret has no `{name}`, which {for_what} needs: add the variable to the secret")
    })
}

/// What to give for images of `host`, for the sentence that says they are private.
pub(crate) fn secret_for(host: &str) -> String {
    if host.contains(".dkr.ecr.") {
        format!(
            "`Image.from_aws_ecr(..., secret=...)` with a secret that has `{AWS_ID}`, `{AWS_SECRET}` and `{AWS_REGION}`"
        )
    } else if host.ends_with(".pkg.dev") || host == "gcr.io" || host.ends_with(".gcr.io") {
        format!("`Image.from_gcp_artifact_registry(..., secret=...)` with a secret that has `{GCP_JSON}`")
    } else {
        format!("`Image.from_registry(..., secret=...)` with a secret that has `{USER}` and `{PASSWORD}`")
    }
}

impl fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic(login) => login.fmt(f),
            Self::AwsEcr(keys) => keys.fmt(f),
        }
    }
}

impl fmt::Debug for AwsKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}:***", self.access_key_id, self.region)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RegistryAuthKind::{Aws, Gcp, Public, Static};

    fn from(kind: RegistryAuthKind, variables: &[(&str, &str)]) -> Result<Option<RegistryAuth>, String> {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        RegistryAuth::from_secret(kind, &variables)
    }

    fn login(user: &str, password: &str) -> RegistryAuth {
        RegistryAuth::Basic(Credentials { user: user.to_owned(), password: password.to_owned() })
    }

    #[test]
    fn each_kind_takes_its_variables() {
        assert_eq!(from(Public, &[]), Ok(None));
        assert_eq!(from(Static, &[(USER, "me"), (PASSWORD, "x\n")]), Ok(Some(login("me", "x"))));
        assert_eq!(from(Gcp, &[(GCP_JSON, "{\"type\": 1}")]), Ok(Some(login("_json_key", "{\"type\": 1}"))));
        let keys = AwsKeys {
            access_key_id: "id".to_owned(),
            secret_access_key: "key".to_owned(),
            session_token: Some("session".to_owned()),
            region: "us-east-1".to_owned(),
        };
        let variables = [(AWS_ID, "id"), (AWS_SECRET, "key"), (AWS_TOKEN, "session"), (AWS_REGION, "us-east-1")];
        assert_eq!(from(Aws, &variables), Ok(Some(RegistryAuth::AwsEcr(keys))));
    }

    #[test]
    fn a_plain_registry_takes_a_clouds_variables_too() {
        let aws = from(Static, &[(AWS_ID, "id"), (AWS_SECRET, "key"), (AWS_REGION, "eu-west-1")]);
        assert!(matches!(aws, Ok(Some(RegistryAuth::AwsEcr(_)))), "{aws:?}");
        assert_eq!(from(Static, &[(GCP_JSON, "{}")]), Ok(Some(login("_json_key", "{}"))));
    }

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let error = |kind, variables: &[(&str, &str)]| from(kind, variables).unwrap_err();
        assert_eq!(
            error(Static, &[(USER, "me"), (PASSWORD, " ")]),
            "the registry's secret has no `REGISTRY_PASSWORD`, which a private registry needs: add the variable to the secret"
        );
        assert!(error(Static, &[]).contains("no `REGISTRY_USERNAME`"));
        assert!(error(Aws, &[(AWS_ID, "id"), (AWS_SECRET, "key")]).contains("no `AWS_REGION`"));
        assert!(error(Aws, &[(AWS_SECRET, "key")]).contains("no `AWS_ACCESS_KEY_ID`"));
        assert!(error(Gcp, &[]).contains("no `SERVICE_ACCOUNT_JSON`"));
        assert!(error(Gcp, &[(GCP_JSON, "/home/me/key.json")]).contains("not its path"));
        let role = error(Aws, &[(AWS_ROLE, "arn:aws:iam::1:role/x"), (AWS_REGION, "us-east-1")]);
        assert!(role.contains("put `AWS_ACCESS_KEY_ID`"), "{role}");
    }

    #[test]
    fn a_region_cannot_lead_to_another_host() {
        let keys = [(AWS_ID, "id"), (AWS_SECRET, "key"), (AWS_REGION, "x.evil.example/")];
        assert!(from(Aws, &keys).unwrap_err().contains("not a region"));
    }

    #[test]
    fn secrets_do_not_print() {
        let keys = [(AWS_ID, "id"), (AWS_SECRET, "hidden"), (AWS_TOKEN, "hidden"), (AWS_REGION, "eu-west-1")];
        assert!(!format!("{:?}", from(Aws, &keys)).contains("hidden"));
        assert!(!format!("{:?}", from(Static, &[(USER, "me"), (PASSWORD, "hidden")])).contains("hidden"));
    }

    #[test]
    fn a_private_registry_says_which_secret_it_wants() {
        assert!(secret_for("1.dkr.ecr.eu-west-1.amazonaws.com").contains("from_aws_ecr"));
        assert!(secret_for("europe-docker.pkg.dev").contains("SERVICE_ACCOUNT_JSON"));
        assert!(secret_for("ghcr.io").contains("REGISTRY_PASSWORD"));
    }
}
