//! Where most builds of the tests happen.

use std::path::PathBuf;

use dorian_image_builder::{BuildRequest, BuilderConfig};

use super::fake_registry::{FakeRegistry, Faults};
use super::image::TestImage;
use super::{Built, Machine, request};

/// A machine with a small image in a registry; `IMAGE` in a Dockerfile stands for it.
pub struct Bench {
    pub machine: Machine,
    pub image: String,
    _registry: FakeRegistry,
}

impl Bench {
    /// None where this process may not make containers.
    pub fn new() -> Option<Self> {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut BuilderConfig)) -> Option<Self> {
        let machine = Machine::with(change)?;
        let registry = FakeRegistry::start(&TestImage::small(), Faults::default());
        let image = registry.image("single");
        Some(Self { machine, image, _registry: registry })
    }

    pub fn request(&self, text: &str) -> BuildRequest {
        request(&text.replace("IMAGE", &self.image))
    }

    pub async fn build(&self, text: &str) -> Built {
        self.machine.build(self.request(text)).await
    }

    /// These steps on the small image.
    pub fn request_steps(&self, steps: &str) -> BuildRequest {
        request(&format!("FROM {}\n{steps}", self.image))
    }

    pub async fn build_steps(&self, steps: &str) -> Built {
        self.machine.build(self.request_steps(steps)).await
    }

    /// The folder of the built image's top layer.
    pub fn top(&self, built: &Built) -> PathBuf {
        self.machine.builder.layer_path(built.ok().layers.last().unwrap())
    }

    pub async fn leave_nothing(self) {
        self.machine.leave_nothing().await;
    }
}
