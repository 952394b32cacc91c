//! What the operator may choose: `config.toml` in the data directory. Without the file, everything is as the machine has
//! it, which is right for most.
//!
//! An unknown key is an error: a misspelt mirror that is silently ignored costs an evening.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use container_runtime::{RuntimeConfig, Subnet};
use control_plane::LogLimits;
use image_builder::{BuilderConfig, Credentials, LayerLimits, RegistryConfig};
use serde::Deserialize;

/// The file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Archive for Debian bases and for `apt-get` in builds.
    debian_mirror: Option<String>,
    registries: Registries,
    build: Build,
    logs: Logs,
    worker: Worker,
    network: Network,
    /// The file itself, for messages that say what to set.
    #[serde(skip)]
    path: PathBuf,
}

/// What containers get of this machine.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Worker {
    /// Whether CPU is a share and not a need.
    cpu_overcommit: Option<bool>,
}

/// The network of containers.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Network {
    /// Addresses for containers, as in `10.99.0.0/20`; by default a free block of 10.64.0.0/10.
    subnet: Option<String>,
    /// Name servers for containers; by default this machine's.
    resolvers: Vec<IpAddr>,
}

/// How much of what apps print is kept on disk.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Logs {
    /// Of one app.
    app_mib: Option<NonZeroU32>,
    /// Of all apps together.
    total_mib: Option<NonZeroU32>,
    keep_days: Option<NonZeroU32>,
}

/// What builds get from this machine, where it is not to be what the server's own environment says.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Build {
    /// A PEM file of certificate authorities.
    ca_bundle: Option<PathBuf>,
    /// Proxies and package indexes: `HTTPS_PROXY`, `PIP_INDEX_URL`, `NPM_CONFIG_REGISTRY`, ... Empty takes one away.
    variables: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Registries {
    /// Registry name in references (`docker.io`) to hosts that are asked before it, in order.
    mirrors: BTreeMap<String, Vec<String>>,
    /// Never ask a registry itself.
    mirrors_only: bool,
    /// Host to user and password.
    credentials: BTreeMap<String, Login>,
    /// Hosts that are spoken to without TLS.
    insecure: BTreeSet<String>,
    /// What a single layer may unpack to: bytes, and files, folders and links.
    largest_layer_bytes: Option<u64>,
    most_layer_files: Option<u64>,
    /// Where registry passwords for Amazon's access keys come from, instead of Amazon's own place.
    ecr_endpoint: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    user: String,
    password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:***", self.user)
    }
}

impl Config {
    /// Reads the file of a data directory; none is an empty one.
    pub fn read(data: &Path) -> Result<Self> {
        let path = data.join("config.toml");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| format!("cannot read `{}`", path.display())),
        };
        let read: Result<Self, toml_edit::de::Error> = toml_edit::de::from_str(&text);
        // The parser's message is several lines, with an end.
        let read = read.map_err(|error| {
            let (path, error) = (path.display(), error.to_string());
            anyhow::anyhow!("cannot understand `{path}`, mend it and try again: {}", error.trim_end())
        })?;
        Ok(Self { path, ..read })
    }

    /// The choices about containers.
    ///
    /// # Errors
    /// When the addresses for containers are none.
    pub fn runtime(&self, state_dir: PathBuf) -> Result<RuntimeConfig> {
        let mut runtime = RuntimeConfig::new(state_dir);
        runtime.settings_file.clone_from(&self.path);
        runtime.resolvers.clone_from(&self.network.resolvers);
        if let Some(text) = &self.network.subnet {
            let subnet = subnet(text).with_context(|| {
                format!(
                    "`network.subnet` in `{}`: `{text}` is not a block of addresses like `10.99.0.0/20`",
                    self.path.display()
                )
            })?;
            runtime.subnet = Some(subnet);
        }
        Ok(runtime)
    }

    /// How much of what apps print is kept.
    pub fn log_limits(&self) -> LogLimits {
        let usual = LogLimits::default();
        let mib = |chosen: Option<NonZeroU32>, usual| chosen.map_or(usual, |n| u64::from(n.get()) << 20);
        LogLimits {
            app_bytes: mib(self.logs.app_mib, usual.app_bytes),
            total_bytes: mib(self.logs.total_mib, usual.total_bytes),
            keep_ms: self.logs.keep_days.map_or(usual.keep_ms, |n| u64::from(n.get()) * 24 * 3_600_000),
        }
    }

    /// Whether CPU may be promised twice, and functions may ask for more than there is.
    pub fn cpu_overcommit(&self) -> bool {
        self.worker.cpu_overcommit.unwrap_or(true)
    }

    /// The machine's own settings for image builds, with the operator's choices in their place.
    ///
    /// # Errors
    /// When the certificates' file is not there, or a variable is none of those that builds may get.
    pub fn builder(self, images: &Path) -> Result<BuilderConfig> {
        let mut machine = BuilderConfig::new(images);
        if let Some(bundle) = self.build.ca_bundle {
            anyhow::ensure!(
                bundle.is_file(),
                "`build.ca_bundle` in `{}`: there is no file `{}`",
                self.path.display(),
                bundle.display()
            );
            machine.host_env.ca_bundle = Some(bundle);
        }
        machine
            .host_env
            .choose(self.build.variables)
            .map_err(|e| anyhow::anyhow!("`build.variables` in `{}`: {e}", self.path.display()))?;
        let login = |login: Login| Credentials { user: login.user, password: login.password };
        let chosen = self.registries;
        let usual = LayerLimits::default();
        let layer_limits = LayerLimits {
            bytes: chosen.largest_layer_bytes.unwrap_or(usual.bytes),
            entries: chosen.most_layer_files.unwrap_or(usual.entries),
        };
        let Registries { mirrors, mirrors_only, credentials, insecure, ecr_endpoint, .. } = chosen;
        let credentials = credentials.into_iter().map(|(host, given)| (host, login(given))).collect();
        Ok(BuilderConfig {
            registries: RegistryConfig { mirrors, mirrors_only, credentials, insecure, ecr_endpoint, layer_limits },
            settings_file: self.path,
            debian_mirror: self.debian_mirror.or(machine.debian_mirror.clone()),
            ..machine
        })
    }
}

/// Room for 14 containers at least; a larger block than a /8 is nobody's own.
fn subnet(text: &str) -> Option<Subnet> {
    let (base, prefix) = text.split_once('/')?;
    let subnet = Subnet { base: base.parse().ok()?, prefix: prefix.parse().ok()? };
    ((8..=28).contains(&subnet.prefix) && u32::from(subnet.base) & !subnet.mask() == 0).then_some(subnet)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config> {
        let data = tempfile::tempdir().unwrap();
        fs::write(data.path().join("config.toml"), text).unwrap();
        Config::read(data.path())
    }

    #[test]
    fn a_file_with_everything_is_taken_as_it_is() {
        let text = "debian_mirror = \"http://mirror.example/debian\"\n\
                    [registries]\nmirrors_only = true\ninsecure = [\"plain.example:5000\"]\n\
                    ecr_endpoint = \"http://127.0.0.1:4566\"\nlargest_layer_bytes = 5000\n\
                    [registries.mirrors]\n\"docker.io\" = [\"mirror.example\"]\n\
                    [registries.credentials.\"ghcr.io\"]\nuser = \"me\"\npassword = \"secret\"\n";
        let config = read(text).unwrap();
        assert!(!format!("{config:?}").contains("secret"));
        let builder = config.builder(Path::new("/x")).unwrap();
        assert_eq!(builder.debian_mirror.as_deref(), Some("http://mirror.example/debian"));
        assert_eq!(builder.registries.mirrors["docker.io"], ["mirror.example"]);
        assert!(builder.registries.mirrors_only);
        assert_eq!(builder.registries.credentials["ghcr.io"].user, "me");
        assert!(builder.registries.insecure.contains("plain.example:5000"));
        assert_eq!(builder.registries.layer_limits, LayerLimits { bytes: 5000, ..LayerLimits::default() });
        assert_eq!(builder.registries.ecr_endpoint.as_deref(), Some("http://127.0.0.1:4566"));
    }

    #[test]
    fn builds_get_the_operators_proxy_and_certificates_and_nothing_that_could_change_them() {
        let chosen = |text: &str| read(text).unwrap().builder(Path::new("/x"));
        let host = chosen("[build]\nca_bundle = \"/proc/self/stat\"\nvariables.HTTPS_PROXY = \"http://p:1\"\n");
        let host = host.unwrap().host_env;
        assert_eq!(host.variables["HTTPS_PROXY"], "http://p:1");
        assert_eq!(host.ca_bundle.as_deref(), Some(Path::new("/proc/self/stat")));
        for (text, said) in [("variables.CFLAGS = \"-O3\"", "CFLAGS"), ("ca_bundle = \"/no/file\"", "/no/file")] {
            let error = format!("{:#}", chosen(&format!("[build]\n{text}\n")).unwrap_err());
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn containers_get_the_operators_name_servers_and_addresses() {
        let chosen = |text: &str| read(&format!("[network]\n{text}\n")).unwrap().runtime("/x".into());
        let runtime = chosen("subnet = \"10.99.16.0/20\"\nresolvers = [\"192.0.2.53\"]").unwrap();
        assert_eq!(runtime.subnet.map(|subnet| subnet.to_string()).as_deref(), Some("10.99.16.0/20"));
        assert_eq!(runtime.resolvers, ["192.0.2.53".parse::<IpAddr>().unwrap()]);
        for bad in ["10.99.16.0", "10.99.16.1/20", "10.99.16.0/30", "10.0.0.0/0", "x/20"] {
            let error = chosen(&format!("subnet = \"{bad}\"")).unwrap_err().to_string();
            assert!(error.contains("config.toml") && error.contains(bad), "{error}");
        }
    }

    #[test]
    fn messages_about_settings_name_the_file_in_the_data_directory() {
        let data = tempfile::tempdir().unwrap();
        let config = Config::read(data.path()).unwrap();
        let file = data.path().join("config.toml");
        assert_eq!(config.runtime("/x".into()).unwrap().settings_file, file);
        assert_eq!(config.builder(Path::new("/x")).unwrap().settings_file, file);
    }

    #[test]
    fn kept_logs_have_the_operators_limits_and_never_none() {
        let limits = |text: &str| read(text).map(|config| config.log_limits());
        let chosen = limits("[logs]\napp_mib = 1\nkeep_days = 2\n").unwrap();
        assert_eq!((chosen.app_bytes, chosen.keep_ms), (1 << 20, 172_800_000));
        assert_eq!(chosen.total_bytes, LogLimits::default().total_bytes);
        assert!(limits("[logs]\ntotal_mib = 0\n").is_err());
    }

    #[test]
    fn cpu_is_a_share_unless_the_operator_says_otherwise() {
        let shares = |text: &str| read(text).unwrap().cpu_overcommit();
        assert!(shares("") && shares("[worker]\ncpu_overcommit = true\n"));
        assert!(!shares("[worker]\ncpu_overcommit = false\n"));
    }

    #[test]
    fn no_file_is_no_choice() {
        let data = tempfile::tempdir().unwrap();
        let builder = Config::read(data.path()).unwrap().builder(Path::new("/x")).unwrap();
        assert!(builder.registries.mirrors.is_empty());
    }

    /// Keys of a section, as the parser lists them to whoever writes one that it does not know.
    fn keys_of(section: &str) -> Vec<String> {
        let heading = if section.is_empty() { String::new() } else { format!("[{section}]\n") };
        let error = format!("{:#}", read(&format!("{heading}unknown_ = 1\n")).unwrap_err());
        let (_, listed) = error.split_once("expected").unwrap();
        listed.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn the_readme_shows_every_key_and_no_other() {
        let readme = include_str!("../../../README.md");
        let (_, rest) = readme.split_once("```toml\n").unwrap();
        let (shown, _) = rest.split_once("```").unwrap();
        read(shown).unwrap();
        let sections: Vec<_> = keys_of("").into_iter().filter(|key| shown.contains(&format!("[{key}]"))).collect();
        let keys = sections.iter().flat_map(|section| keys_of(section)).chain(keys_of(""));
        let missing: Vec<_> = keys.filter(|key| !shown.contains(key.as_str())).collect();
        assert!(missing.is_empty() && sections.len() >= 3, "{missing:?} of {sections:?}");
    }

    #[test]
    fn a_misspelt_key_is_an_error_that_names_it_and_the_file() {
        let error = format!("{:#}", read("[registries.mirors]\n").unwrap_err());
        assert!(error.contains("config.toml") && error.contains("miror"), "{error}");
    }
}
