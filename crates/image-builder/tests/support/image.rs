//! An image as a registry stores it, made from scratch.

use std::io::Write;

use sha2::{Digest, Sha256};

pub const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

pub struct TestImage {
    /// Compressed layers, lowest first, with their media types.
    pub layers: Vec<(Vec<u8>, String)>,
    /// The same before they were compressed.
    pub plain: Vec<(Vec<u8>, Packing)>,
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
    /// Names the manifest for linux/amd64 beside one for another platform that does not exist.
    pub index: Vec<u8>,
}

#[derive(Clone, Copy)]
pub enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl TestImage {
    /// A shell and its programs; over it, in other packings, files to look at.
    pub fn small() -> Self {
        let busybox = super::busybox();
        let mut bottom = Archive::new();
        bottom.folder("bin", 0o755);
        bottom.file("bin/busybox", &busybox, 0o755);
        let programs =
            "sh cat echo ls stat id env touch mkdir rm sleep printf pwd test true false head find yes chmod dd wc";
        for name in programs.split(' ') {
            bottom.link(&format!("bin/{name}"), "busybox");
        }
        bottom.folder("etc", 0o755);
        bottom.file("etc/passwd", b"root:x:0:0::/root:/bin/sh\nuser:x:1000:1001::/home/user:/bin/sh\n", 0o644);
        bottom.file("etc/group", b"root:x:0:\nuser:x:1001:\n", 0o644);
        bottom.folder("data/gone", 0o755);
        bottom.file("data/gone/file", b"low", 0o644);
        bottom.file("data/kept", b"low", 0o644);
        bottom.link("lib", "usr/lib");
        bottom.folder("usr/lib", 0o711);
        let mut middle = Archive::new();
        middle.file("data/.wh.gone", b"", 0o644);
        middle.file("data/new", b"middle", 0o600);
        let mut top = Archive::new();
        top.file("lib/linked", b"top", 0o644);
        let layers = [(bottom, Packing::Gzip), (middle, Packing::Zstd), (top, Packing::Plain)];
        Self::of(layers.map(|(archive, packing)| (archive.finish(), packing)).to_vec())
    }

    pub fn of(archives: Vec<(Vec<u8>, Packing)>) -> Self {
        let diff_ids: Vec<String> = archives.iter().map(|(archive, _)| digest(archive)).collect();
        let layers: Vec<(Vec<u8>, String)> =
            archives.iter().map(|(archive, packing)| pack(archive, *packing)).collect();
        let config = serde_json::json!({
            "architecture": "amd64",
            "os": "linux",
            "config": { "Env": ["PATH=/bin", "FROM_IMAGE=yes"], "WorkingDir": "/data", "Cmd": ["sh"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = serde_json::to_vec(&config).unwrap();
        let descriptor = |bytes: &[u8], kind: &str| serde_json::json!({ "mediaType": kind, "digest": digest(bytes), "size": bytes.len() });
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor(&config, CONFIG_TYPE),
            "layers": layers.iter().map(|(bytes, kind)| descriptor(bytes, kind)).collect::<Vec<_>>(),
        });
        let manifest = serde_json::to_vec(&manifest).unwrap();
        let mut here = descriptor(&manifest, MANIFEST_TYPE);
        here["platform"] = serde_json::json!({ "os": "linux", "architecture": "amd64" });
        let index = serde_json::json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [here] });
        Self { layers, plain: archives, config, manifest, index: serde_json::to_vec(&index).unwrap() }
    }
}

pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn pack(archive: &[u8], packing: Packing) -> (Vec<u8>, String) {
    let (bytes, suffix) = match packing {
        Packing::Plain => (archive.to_vec(), ""),
        Packing::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(archive).unwrap();
            (encoder.finish().unwrap(), "+gzip")
        }
        Packing::Zstd => (zstd::encode_all(archive, 3).unwrap(), "+zstd"),
    };
    (bytes, format!("application/vnd.oci.image.layer.v1.tar{suffix}"))
}

pub struct Archive(tar::Builder<Vec<u8>>);

impl Archive {
    pub fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    pub fn folder(&mut self, path: &str, mode: u32) {
        self.add(tar::EntryType::Directory, path, b"", mode, None);
    }

    pub fn file(&mut self, path: &str, content: &[u8], mode: u32) {
        self.add(tar::EntryType::Regular, path, content, mode, None);
    }

    pub fn link(&mut self, path: &str, target: &str) {
        self.add(tar::EntryType::Symlink, path, b"", 0o777, Some(target));
    }

    fn add(&mut self, kind: tar::EntryType, path: &str, content: &[u8], mode: u32, link: Option<&str>) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        header.set_mtime(1_700_000_000);
        if let Some(link) = link {
            header.set_link_name(link).unwrap();
        }
        header.set_uid(0);
        header.set_gid(0);
        self.0.append_data(&mut header, path, content).unwrap();
    }

    pub fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}
