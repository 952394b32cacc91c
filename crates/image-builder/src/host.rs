//! What builds inherit from the machine: certificates, proxies, package indexes.
//!
//! Many users sit behind a proxy that re-signs TLS, or install from a mirror of their own. A build can only work there
//! with the same settings, and must not remember them: they are given by environment variables and bind mounts while a
//! step runs, and never become part of a layer or of a key. A variable that the image or the user sets wins.

use std::collections::BTreeMap;
use std::path::PathBuf;

use container_runtime::Bind;

/// Inside the container, a folder that no image has.
pub(crate) const PRIVATE: &str = "/__dorian";
const CA_BUNDLE: &str = "/__dorian/ca-bundle.pem";

/// Handed to every step that runs a program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostEnv {
    /// A PEM file of certificate authorities on this machine.
    pub ca_bundle: Option<PathBuf>,
    /// Variables as they are: proxies, `PIP_INDEX_URL`, ...
    pub variables: BTreeMap<String, String>,
}

/// Variables that only say where to download from.
const PASSED: [&str; 27] = [
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "no_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_TRUSTED_HOST",
    "PIP_DEFAULT_TIMEOUT",
    "PIP_RETRIES",
    "UV_INDEX_URL",
    "UV_EXTRA_INDEX_URL",
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_INSECURE_HOST",
    "UV_HTTP_TIMEOUT",
    "NPM_CONFIG_REGISTRY",
    "npm_config_registry",
    "CONDA_CHANNEL_ALIAS",
    "GOPROXY",
    "RUSTUP_DIST_SERVER",
    "UV_PYTHON_INSTALL_MIRROR",
];

/// The many names under which programs look for the certificate file.
const CA_VARIABLES: [&str; 11] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "CONDA_SSL_VERIFY",
    "HTTPLIB2_CA_CERTS",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
];

impl HostEnv {
    /// As this process sees them.
    pub fn from_process() -> Self {
        Self::from_variables(&|name| std::env::var(name).ok())
    }

    fn from_variables(get: &dyn Fn(&str) -> Option<String>) -> Self {
        let named = ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"].iter().find_map(|name| get(name));
        let candidates = named.into_iter().chain(["/etc/ssl/certs/ca-certificates.crt".to_owned()]);
        let ca_bundle = candidates.map(PathBuf::from).find(|path| path.is_file());
        let variables = PASSED
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), get(name)?)))
            .filter(|(name, value)| !value.is_empty() && !is_loopback_proxy(name, value))
            .collect();
        Self { ca_bundle, variables }
    }

    /// Puts an operator's choices in the place of the machine's own. An empty value takes a variable away.
    ///
    /// # Errors
    /// A sentence, for a variable that says more than where to download from: what is passed here is in no layer's
    /// key, so it must not change what a step makes.
    pub fn choose(&mut self, variables: BTreeMap<String, String>) -> Result<(), String> {
        for (name, value) in variables {
            if !PASSED.contains(&name.as_str()) {
                return Err(format!(
                    "`{name}` cannot be given to all builds, since it might change what they make; these can: {}. Use `.env()` on the image for others",
                    PASSED.join(", ")
                ));
            }
            match value.is_empty() {
                true => self.variables.remove(&name),
                false => self.variables.insert(name, value),
            };
        }
        Ok(())
    }

    /// Variables for a step, weakest first in meaning: the caller drops those that are set otherwise.
    pub(crate) fn step_variables(&self) -> BTreeMap<String, String> {
        let mut all = self.variables.clone();
        if self.ca_bundle.is_some() {
            all.extend(CA_VARIABLES.iter().map(|name| ((*name).to_owned(), CA_BUNDLE.to_owned())));
        }
        all
    }

    pub(crate) fn binds(&self) -> Vec<Bind> {
        let bundle = self.ca_bundle.iter();
        bundle.map(|source| Bind { source: source.clone(), target: CA_BUNDLE.to_owned(), read_only: true }).collect()
    }
}

/// A proxy on this machine's loopback cannot be reached from a container, so it would only stop every download.
fn is_loopback_proxy(name: &str, value: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let local = ["://127.", "://localhost", "://[::1]"].iter().any(|sign| value.contains(sign));
    name.ends_with("_proxy") && name != "no_proxy" && local
}

/// Apt's configuration for builds. Downloaded packages are not kept: they would only fill the layer.
pub(crate) fn apt_settings(host: &HostEnv) -> String {
    let mut text = String::from(
        "APT::Keep-Downloaded-Packages \"false\";\nAcquire::Retries \"3\";\nAPT::Sandbox::User \"root\";\n",
    );
    if host.ca_bundle.is_some() {
        text.push_str(&format!("Acquire::https::CaInfo \"{CA_BUNDLE}\";\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_sets_and_takes_away_download_settings_and_nothing_else() {
        let mut host = HostEnv::default();
        host.variables.insert("HTTPS_PROXY".to_owned(), "http://old".to_owned());
        let chosen = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        host.choose(chosen("HTTPS_PROXY", "")).unwrap();
        host.choose(chosen("PIP_INDEX_URL", "http://index")).unwrap();
        assert!(host.choose(chosen("CFLAGS", "-O3")).unwrap_err().contains("CFLAGS"));
        assert_eq!(host.variables.into_iter().collect::<Vec<_>>(), [("PIP_INDEX_URL".into(), "http://index".into())]);
    }

    #[test]
    fn only_download_settings_are_passed_on() {
        let get = |name: &str| match name {
            "HTTPS_PROXY" => Some("http://proxy:3128".to_owned()),
            "http_proxy" => Some("http://localhost:3128".to_owned()),
            "AWS_SECRET_ACCESS_KEY" => Some("x".to_owned()),
            _ => None,
        };
        let host = HostEnv::from_variables(&get);
        assert_eq!(host.variables.keys().collect::<Vec<_>>(), ["HTTPS_PROXY"]);
    }
}
