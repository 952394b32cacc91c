//! Generates the wire types. `protox` compiles the `.proto` files in-process, so that a plain `cargo build` needs no
//! `protoc` on the machine.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// Where a `Function` message stands inside another message. A definition travels through the server to containers of
/// clients that may be newer than we are, so those fields keep their bytes (`Passthrough`); prost has no setting for
/// the type of a single field, hence the replacement in the generated text.
const FUNCTION_FIELDS: usize = 4;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = proto_files(Path::new("proto"))?;
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(&files, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    tonic_prost_build::configure()
        .bytes(".")
        .build_client(true)
        .out_dir(&out)
        // Generated doc comments repeat the proto files', whose indentation rustdoc takes for code.
        .disable_comments(["."])
        .compile_fds(descriptors)?;

    let generated = out.join("modal.client.rs");
    let text = fs::read_to_string(&generated)?;
    let mut replaced = 0;
    let text: Vec<String> = text
        .lines()
        .map(|line| {
            let line = line.to_owned();
            for plain in ["Option<Function>", "Option<super::Function>"] {
                if line.trim_start().starts_with("pub function") && line.contains(plain) {
                    replaced += 1;
                    return line.replace(plain, "Option<crate::Passthrough<crate::wire::Function>>");
                }
            }
            line
        })
        .collect();
    assert_eq!(replaced, FUNCTION_FIELDS, "a field of type `Function` came or went: check that it keeps its bytes");
    fs::write(&generated, text.join("\n"))?;
    Ok(())
}

fn proto_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "proto") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
