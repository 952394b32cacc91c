//! `add_python=` where the archives of python-build-standalone can be reached.
#![allow(clippy::unwrap_used, reason = "a panic is the report of a test")]

mod support;

use dorian_image_builder::StandalonePython;
use flate2::write::GzEncoder;
use support::bench::Bench;
use support::web::Web;

/// `python/bin/python3.11`, a link to it, and a path that would leave the folder if `hostile`.
fn archive(hostile: bool) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    let header = |kind, size| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header
    };
    let mut program = header(tar::EntryType::Regular, 7);
    tar.append_data(&mut program.clone(), "python/bin/python3.11", &b"a tool\n"[..]).unwrap();
    if hostile {
        // The library refuses to write such a name, so it is put in by hand.
        program.as_gnu_mut().unwrap().name[..12].copy_from_slice(b"../outside\0\0");
        program.set_cksum();
        tar.append(&program, &b"a tool\n"[..]).unwrap();
    }
    tar.append_link(&mut header(tar::EntryType::Symlink, 0), "python/bin/python3", "python3.11").unwrap();
    tar.into_inner().unwrap().finish().unwrap()
}

/// Where the archive of [`python`] is on a mirror.
const PLACE: &str = "/20230826/cpython-3.12.1%2B20230826-x86_64-unknown-linux-gnu-install_only.tar.gz";

fn bench(mirror: &Web) -> Option<Bench> {
    Bench::with(|config| {
        config.host_env.variables.insert("UV_PYTHON_INSTALL_MIRROR".to_owned(), mirror.url());
    })
}

fn python() -> Option<StandalonePython> {
    StandalonePython::parse("python-build-standalone.20230826.3.12.1-gnu")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_archive_is_downloaded_once_from_the_configured_mirror() {
    let mirror = Web::start();
    mirror.put(PLACE, &archive(false));
    let Some(bench) = bench(&mirror) else { return };
    for line in ["RUN cat /usr/local/bin/python3", "RUN cat /usr/local/bin/python3.11"] {
        let mut wanted = bench.request_steps(&format!("COPY /python/. /usr/local\n{line}"));
        wanted.standalone_python = python();
        let built = bench.machine.build(wanted).await;
        built.ok();
        assert!(built.has_line("a tool"), "{line}");
    }
    assert_eq!(mirror.answers(), [format!("{PLACE} 200")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_downloaded_or_would_leave_its_folder_fails_the_build_in_words() {
    for (body, said) in
        [(None, "UV_PYTHON_INSTALL_MIRROR"), (Some(archive(true)), "cannot unpack the downloaded Python")]
    {
        let mirror = Web::start();
        if let Some(body) = body {
            mirror.put(PLACE, &body);
        }
        let Some(bench) = bench(&mirror) else { return };
        let mut wanted = bench.request_steps("COPY /python/. /usr/local");
        wanted.standalone_python = python();
        let built = bench.machine.build(wanted).await;
        let error = built.error();
        assert!(error.contains(said), "{error}");
    }
}
