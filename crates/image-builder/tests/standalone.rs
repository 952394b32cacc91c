//! `add_python=` where the archives of python-build-standalone can be reached.
#![allow(clippy::unwrap_used, reason = "a panic is the report of a test")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

use dorian_image_builder::StandalonePython;
use flate2::write::GzEncoder;
use support::fake_registry::{FakeRegistry, Faults};
use support::image::TestImage;
use support::{Machine, request};

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

/// Answers every request with `body`, and with 404 when there is none; gives its address and the paths asked for.
fn serve(body: Option<Vec<u8>>) -> (String, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (asked, paths) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let first = lines.next().unwrap_or_default();
            while lines.next().is_some_and(|line| !line.is_empty()) {}
            let _ = asked.send(first.split(' ').nth(1).unwrap_or_default().to_owned());
            let (status, body) = body.as_ref().map_or(("404 Not Found", &[][..]), |body| ("200 OK", body));
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let mut stream = stream;
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        }
    });
    (address, paths)
}

struct Bench {
    machine: Machine,
    from: String,
    _registry: FakeRegistry,
}

fn bench(mirror: &str) -> Option<Bench> {
    let machine = Machine::with(|config| {
        config.host_env.variables.insert("UV_PYTHON_INSTALL_MIRROR".to_owned(), mirror.to_owned());
    })?;
    let registry = FakeRegistry::start(&TestImage::small(), Faults::default());
    Some(Bench { machine, from: format!("FROM {}", registry.image("single")), _registry: registry })
}

fn python(version: &str) -> Option<StandalonePython> {
    StandalonePython::parse(&format!("python-build-standalone.20230826.{version}-gnu"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_archive_is_downloaded_once_from_the_configured_mirror() {
    let (mirror, paths) = serve(Some(archive(false)));
    let Some(bench) = bench(&mirror) else { return };
    for line in ["RUN cat /usr/local/bin/python3", "RUN cat /usr/local/bin/python3.11"] {
        let mut wanted = request(&format!("{}\nCOPY /python/. /usr/local\n{line}", bench.from));
        wanted.standalone_python = python("3.12.1");
        let built = bench.machine.build(wanted).await;
        built.ok();
        assert!(built.has_line("a tool"), "{line}");
    }
    let asked: Vec<String> = paths.try_iter().collect();
    assert_eq!(asked, ["/20230826/cpython-3.12.1%2B20230826-x86_64-unknown-linux-gnu-install_only.tar.gz"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_downloaded_or_would_leave_its_folder_fails_the_build_in_words() {
    for (body, said) in
        [(None, "UV_PYTHON_INSTALL_MIRROR"), (Some(archive(true)), "cannot unpack the downloaded Python")]
    {
        let (mirror, _paths) = serve(body);
        let Some(bench) = bench(&mirror) else { return };
        let mut wanted = request(&format!("{}\nCOPY /python/. /usr/local", bench.from));
        wanted.standalone_python = python("3.12.1");
        let built = bench.machine.build(wanted).await;
        let error = built.error();
        assert!(error.contains(said), "{error}");
    }
}
