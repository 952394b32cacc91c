//! The documents that a registry answers with, as far as they are needed. Pure.

use std::collections::BTreeMap;

use image_plan::ImageConfig;
use serde::Deserialize;

/// Asked for in this order; registries choose by what they have.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Descriptor {
    #[serde(rename = "mediaType", default)]
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    #[serde(default)]
    pub platform: Option<Platform>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Platform {
    pub architecture: String,
    pub os: String,
    #[serde(default)]
    pub variant: Option<String>,
}

/// Either kind of document: one image, or a list of them by platform.
#[derive(Debug, Deserialize)]
pub(crate) struct Document {
    #[serde(default)]
    pub config: Option<Descriptor>,
    #[serde(default)]
    pub layers: Vec<Descriptor>,
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
}

pub(crate) enum Parsed {
    Image {
        config: Descriptor,
        layers: Vec<Descriptor>,
    },
    /// The one of the list that runs here.
    Elsewhere(Descriptor),
}

impl Document {
    /// The error is a sentence's end: "... {error}".
    pub fn choose(self) -> Result<Parsed, String> {
        if let Some(config) = self.config {
            let foreign = self.layers.iter().find(|layer| layer.media_type.contains("foreign"));
            return match foreign {
                Some(layer) => Err(format!("its layer `{}` may not be distributed by registries", layer.digest)),
                None => Ok(Parsed::Image { config, layers: self.layers }),
            };
        }
        let fits = |found: &&Descriptor| {
            let platform = found.platform.as_ref();
            platform.is_some_and(|platform| platform.os == "linux" && platform.architecture == "amd64")
        };
        let mut fitting: Vec<&Descriptor> = self.manifests.iter().filter(fits).collect();
        // Plain amd64 before its newer levels, which this machine may lack.
        fitting.sort_by_key(|found| found.platform.as_ref().and_then(|platform| platform.variant.clone()));
        let only = || {
            if self.manifests.len() == 1 { self.manifests.first().filter(|one| one.platform.is_none()) } else { None }
        };
        let chosen = fitting.first().copied().or_else(only);
        chosen.cloned().map(Parsed::Elsewhere).ok_or_else(|| {
            let platforms: Vec<String> = self
                .manifests
                .iter()
                .filter_map(|found| found.platform.as_ref())
                .map(|platform| format!("{}/{}", platform.os, platform.architecture))
                .collect();
            format!("it has no variant for linux/amd64, only for {}", platforms.join(", "))
        })
    }
}

/// The image's configuration blob.
#[derive(Debug, Deserialize)]
pub(crate) struct ConfigFile {
    #[serde(default)]
    pub config: Option<RunConfig>,
    pub rootfs: RootFs,
}

#[derive(Debug, Deserialize)]
pub(crate) struct RootFs {
    /// Digests of the layers' uncompressed archives, lowest first.
    pub diff_ids: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct RunConfig {
    pub env: Option<Vec<String>>,
    pub working_dir: Option<String>,
    pub entrypoint: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    pub user: Option<String>,
    pub shell: Option<Vec<String>>,
    pub labels: Option<BTreeMap<String, String>>,
    pub exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    pub volumes: Option<BTreeMap<String, serde_json::Value>>,
    pub stop_signal: Option<String>,
    pub on_build: Option<Vec<String>>,
}

impl RunConfig {
    /// # Errors
    /// What it asks for and would not get: an image built without it would be another one than its author meant.
    pub fn check(&self) -> Result<(), String> {
        match self.on_build.iter().flatten().next() {
            None => Ok(()),
            Some(first) => Err(format!(
                "it has instructions for every image that is built on it (`ONBUILD {first}`), which are not carried out here; use a base without them, and write them into your Dockerfile"
            )),
        }
    }

    pub fn into_image_config(self) -> ImageConfig {
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        let mut config = ImageConfig {
            workdir: filled(self.working_dir),
            entrypoint: self.entrypoint.unwrap_or_default(),
            cmd: self.cmd.unwrap_or_default(),
            user: filled(self.user),
            shell: self.shell.filter(|words| !words.is_empty()),
            labels: self.labels.unwrap_or_default(),
            exposed_ports: self.exposed_ports.unwrap_or_default().into_keys().collect(),
            volumes: self.volumes.unwrap_or_default().into_keys().collect(),
            stop_signal: filled(self.stop_signal),
            ..ImageConfig::default()
        };
        for pair in self.env.unwrap_or_default() {
            let (name, value) = pair.split_once('=').unwrap_or((&pair, ""));
            config.set_env(name, value);
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(json: &str) -> Result<String, String> {
        let document: Document = serde_json::from_str(json).unwrap();
        document.choose().map(|parsed| match parsed {
            Parsed::Image { config, .. } => config.digest,
            Parsed::Elsewhere(found) => found.digest,
        })
    }

    #[test]
    fn the_plain_amd64_variant_of_a_list_is_taken() {
        let list = r#"{"manifests":[
            {"digest":"arm","size":1,"platform":{"os":"linux","architecture":"arm64"}},
            {"digest":"v3","size":1,"platform":{"os":"linux","architecture":"amd64","variant":"v3"}},
            {"digest":"plain","size":1,"platform":{"os":"linux","architecture":"amd64"}},
            {"digest":"attestation","size":1,"platform":{"os":"unknown","architecture":"unknown"}}]}"#;
        assert_eq!(chosen(list), Ok("plain".to_owned()));
    }

    #[test]
    fn a_list_without_amd64_says_what_it_has() {
        let list = r#"{"manifests":[{"digest":"a","size":1,"platform":{"os":"linux","architecture":"arm64"}}]}"#;
        assert_eq!(chosen(list), Err("it has no variant for linux/amd64, only for linux/arm64".to_owned()));
    }

    #[test]
    fn a_base_that_wants_instructions_run_is_refused_by_the_first_of_them() {
        let check = |text: &str| serde_json::from_str::<RunConfig>(text).unwrap().check();
        assert!(check(r#"{"OnBuild":["COPY . /app","RUN make"]}"#).unwrap_err().contains("`ONBUILD COPY . /app`"));
        assert_eq!((check(r#"{"OnBuild":[]}"#), check(r#"{"OnBuild":null}"#)), (Ok(()), Ok(())));
    }

    #[test]
    fn null_fields_are_the_same_as_missing_ones() {
        let text = r#"{"Env":["PATH=/bin","A=b=c"],"Entrypoint":null,"Cmd":["sh"],"WorkingDir":""}"#;
        let config = serde_json::from_str::<RunConfig>(text).unwrap().into_image_config();
        assert_eq!(config.env("A"), Some("b=c"));
        assert_eq!((config.cmd, config.workdir), (vec!["sh".to_owned()], None));
    }
}
