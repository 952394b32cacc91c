//! What usually helps with a failed command, where its last lines say what the cause is. Pure.

/// How a command ended, as far as hints care.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ending {
    pub out_of_memory: bool,
    pub signal: Option<i32>,
    pub code: Option<i32>,
}

/// Every sign must be in one line, in any case. Earlier entries win: what is nearer to the cause comes first.
const KNOWN: &[(&[&str], &str)] = &[
    (&["no space left on device"], "the disk with the server's data folder is full, or the command's tmpfs is"),
    (
        &["certificate_verify_failed"],
        "behind a proxy that re-signs TLS, set `SSL_CERT_FILE` where the server is started",
    ),
    (
        &["certificate verify failed"],
        "behind a proxy that re-signs TLS, set `SSL_CERT_FILE` where the server is started",
    ),
    (&["certificate problem"], "behind a proxy that re-signs TLS, set `SSL_CERT_FILE` where the server is started"),
    (
        &["unable to get local issuer certificate"],
        "behind a proxy that re-signs TLS, set `SSL_CERT_FILE` where the server is started",
    ),
    (
        &["invalid peer certificate"],
        "behind a proxy that re-signs TLS, set `SSL_CERT_FILE` where the server is started",
    ),
    (
        &["externally-managed-environment"],
        "this image's Python refuses pip: use a virtual environment, or `--break-system-packages`",
    ),
    (
        &["externally managed"],
        "this image's Python refuses installs: use a virtual environment, or `--break-system-packages`",
    ),
    (
        &["hashes", "do not match"],
        "the package index serves other bytes than the requirements name: check the hashes, or the index",
    ),
    (&["fatal error", "python.h"], "Python's headers are missing: install `python3-dev`"),
    (&["fatal error", ".h: no such file"], "a C header is missing: install the library's `-dev` package"),
    (&["fatal error", ".h' file not found"], "a C header is missing: install the library's `-dev` package"),
    (
        &["command", "gcc", "failed"],
        "the package is compiled from source: install `build-essential` and its headers first",
    ),
    (&["no such file or directory: 'gcc'"], "the package is compiled from source: install `build-essential` first"),
    (&["no such file or directory: 'cc'"], "the package is compiled from source: install `build-essential` first"),
    (&["unable to find a compiler"], "the package is compiled from source: install `build-essential` first"),
    (&["no acceptable c compiler"], "the package is compiled from source: install `build-essential` first"),
    (&["could not find any of the standard c compilers"], "install `build-essential` first"),
    (&["gcc: not found"], "no C compiler is in the image: install `build-essential` first"),
    (&["gcc: command not found"], "no C compiler is in the image: install `build-essential` first"),
    (&["linker `cc` not found"], "no C compiler is in the image: install `build-essential` first"),
    (&["can't find rust compiler"], "the package is compiled from Rust: install `cargo`, or a version with a wheel"),
    (&["make: not found"], "`make` is not in the image: install `build-essential` first"),
    (&["make: command not found"], "`make` is not in the image: install `build-essential` first"),
    (
        &["no matching distribution found"],
        "the package, or that version of it, is not on the package index for this Python",
    ),
    (
        &["no solution found when resolving"],
        "uv finds no versions that fit together: the lines above say which package",
    ),
    (&["was not found in the package registry"], "the package is not on the package index: check its name"),
    (&["unable to locate package"], "run `apt-get update` in the same step, and check the package's name"),
    (&["has no installation candidate"], "run `apt-get update` in the same step, and check the package's name"),
    (&["404", "is not in this registry"], "the package is not on the npm registry: check its name"),
    (&["npm", "no matching version found"], "that version of the package is not on the npm registry"),
    (&["temporary failure in name resolution"], "the build has no network or no working name server"),
    (&["temporary failure resolving"], "the build has no network or no working name server"),
    (&["could not resolve host"], "the build has no network or no working name server"),
    (&["name or service not known"], "the build has no network or no working name server"),
    (&["failed to lookup address"], "the build has no network or no working name server"),
    (&["getaddrinfo", "eai_again"], "the build has no network or no working name server"),
    (&["network is unreachable"], "the build has no network: is `--network=none` set, or a proxy needed?"),
    (
        &["connection timed out"],
        "a host cannot be reached from builds: a proxy may be needed (`HTTPS_PROXY` where the server is started)",
    ),
    (
        &["407", "proxy authentication"],
        "the proxy wants a password: put it into `HTTPS_PROXY` where the server is started",
    ),
    (&["cannot find command 'git'"], "`git` is not in the image: install it first"),
    (&["git: not found"], "`git` is not in the image: install it first"),
    (&["git: command not found"], "`git` is not in the image: install it first"),
    (&["git executable not found"], "`git` is not in the image: install it first"),
    (&["python: not found"], "the image has no `python`: add one (`add_python=`), or use `python3`"),
    (&["python: command not found"], "the image has no `python`: add one (`add_python=`), or use `python3`"),
    (
        &["\"python\": executable file not found"],
        "the image has no `python`: add one (`add_python=`), or use `python3`",
    ),
    (&["no module named pip"], "the image's Python has no pip: install `python3-pip`, or run `python -m ensurepip`"),
    (&["pip: not found"], "the image has no pip: install `python3-pip`, or use an image with Python"),
    (&["pip: command not found"], "the image has no pip: install `python3-pip`, or use an image with Python"),
    (&["curl: not found"], "`curl` is not in the image: install it first, or use `ADD` with a URL"),
    (&["curl: command not found"], "`curl` is not in the image: install it first, or use `ADD` with a URL"),
    (&["wget: not found"], "`wget` is not in the image: install it first, or use `ADD` with a URL"),
    (&["wget: command not found"], "`wget` is not in the image: install it first, or use `ADD` with a URL"),
    (&["read-only file system"], "the place is a read-only mount: give the mount `rw`, or write elsewhere"),
    (&["permission denied"], "the step's user may not do that: check `USER`, `--chown`, and the file's `x` bit"),
    (&["changing ownership of", "invalid argument"], TOO_LARGE_AN_ID),
    (&["change ownership", "invalid argument"], TOO_LARGE_AN_ID),
    (&["preserve ownership", "invalid argument"], TOO_LARGE_AN_ID),
    (&["exec format error"], "the program is for another processor than this machine's `linux/amd64`"),
    (&["cannot execute binary file"], "the program is for another processor than this machine's `linux/amd64`"),
];

/// [`types::owners::LARGEST_ID`], which is what the kernel knows of ids in containers.
const TOO_LARGE_AN_ID: &str = "users and groups in containers have ids up to 2147483647";

/// What a shell ends with when its program was killed.
const KILLED: i32 = 137;

const MEMORY: &str = "it was killed, most likely since the machine ran out of memory: build with fewer jobs at once (`MAX_JOBS`, `make -j2`)";

/// The cure for what the last lines tell, if it is known.
pub(crate) fn hint(tail: &[String], ending: Ending) -> Option<&'static str> {
    if ending.out_of_memory {
        return Some(MEMORY);
    }
    let lines: Vec<String> = tail.iter().map(|line| line.to_lowercase()).collect();
    let tells = |signs: &[&str]| lines.iter().any(|line| signs.iter().all(|sign| line.contains(sign)));
    if let Some((_, hint)) = KNOWN.iter().find(|(signs, _)| tells(signs)) {
        return Some(hint);
    }
    // A compiler's child that is killed is reported by its parent.
    let killed = ending.signal == Some(9)
        || ending.code == Some(KILLED)
        || tells(&["killed signal terminated program"])
        || tells(&["memoryerror"]);
    let killed = killed || lines.last().is_some_and(|line| line.trim() == "killed");
    killed.then_some(MEMORY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Option<&'static str> {
        hint(&["something before".to_owned(), line.to_owned(), "something after".to_owned()], Ending::default())
    }

    /// A line as the tool prints it, and a word of the cure.
    fn tells(cases: &[(&str, &str)]) {
        for (line, cure) in cases {
            let found = of(line);
            assert!(found.is_some_and(|hint| hint.contains(cure)), "{line}: {found:?}");
        }
    }

    #[test]
    fn a_package_that_is_not_there() {
        tells(&[
            ("ERROR: No matching distribution found for nopackage==9", "package index"),
            ("  × No solution found when resolving dependencies:", "fit together"),
            ("  ╰─▶ Because nopackage was not found in the package registry and you require", "package index"),
            ("E: Unable to locate package nopackage", "apt-get update"),
            ("E: Package 'python2' has no installation candidate", "apt-get update"),
            ("npm error 404  'nopackage@*' is not in this registry.", "npm"),
            ("npm error notarget No matching version found for left-pad@99.", "npm"),
        ]);
    }

    #[test]
    fn no_space() {
        tells(&[
            ("OSError: [Errno 28] No space left on device", "full"),
            ("dd: error writing '/x': No space left on device", "full"),
        ]);
    }

    #[test]
    fn a_compiler_or_a_header_that_is_missing() {
        tells(&[
            ("error: command 'gcc' failed: No such file or directory", "build-essential"),
            ("error: command 'x86_64-linux-gnu-gcc' failed with exit code 1", "build-essential"),
            ("configure: error: no acceptable C compiler found in $PATH", "build-essential"),
            ("/bin/sh: 1: make: not found", "build-essential"),
            ("error: linker `cc` not found", "build-essential"),
            ("error: can't find Rust compiler", "cargo"),
            ("src/a.c:1:10: fatal error: Python.h: No such file or directory", "python3-dev"),
            ("a.c:2:10: fatal error: libpq-fe.h: No such file or directory", "-dev"),
            ("a.c:2:10: fatal error: 'ffi.h' file not found", "-dev"),
        ]);
    }

    #[test]
    fn a_network_that_is_blocked() {
        tells(&[
            ("Failed to establish a new connection: [Errno -3] Temporary failure in name resolution", "name server"),
            (
                "Err:1 http://deb.debian.org bookworm InRelease  Temporary failure resolving 'deb.debian.org'",
                "name server",
            ),
            ("curl: (6) Could not resolve host: example.com", "name server"),
            ("npm error request to https://r/ failed, reason: getaddrinfo EAI_AGAIN r", "name server"),
            ("connect: Network is unreachable", "network"),
            ("curl: (28) Connection timed out after 10001 milliseconds", "HTTPS_PROXY"),
            ("HTTP/1.1 407 Proxy Authentication Required", "password"),
        ]);
    }

    #[test]
    fn a_certificate_that_nobody_knows() {
        tells(&[
            (
                "ssl.SSLCertVerificationError: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed",
                "SSL_CERT_FILE",
            ),
            ("curl: (60) SSL certificate problem: unable to get local issuer certificate", "SSL_CERT_FILE"),
            ("  Caused by: invalid peer certificate: UnknownIssuer", "SSL_CERT_FILE"),
        ]);
    }

    #[test]
    fn a_program_that_is_not_in_the_image() {
        tells(&[
            ("/bin/sh: 1: python: not found", "add_python"),
            ("bash: line 1: python: command not found", "add_python"),
            ("/usr/bin/python3: No module named pip", "python3-pip"),
            ("ERROR: Cannot find command 'git' - do you have 'git' installed and in your PATH?", "git"),
            ("/bin/sh: 1: git: not found", "git"),
            ("  Git executable not found. Ensure that Git is installed and available.", "git"),
            ("/bin/sh: 1: curl: not found", "curl"),
        ]);
    }

    #[test]
    fn a_right_that_the_step_does_not_have() {
        tells(&[
            ("mkdir: cannot create directory '/opt/x': Permission denied", "USER"),
            ("touch: cannot touch '/src/x': Read-only file system", "rw"),
            ("error: externally-managed-environment", "virtual environment"),
        ]);
    }

    #[test]
    fn an_owner_that_no_container_has() {
        let limit = types::owners::LARGEST_ID.to_string();
        tells(&[
            ("chown: changing ownership of '/x': Invalid argument", &limit),
            ("tar: d/f: Cannot change ownership to uid 4294967294, gid 0: Invalid argument", &limit),
            ("install: cannot change ownership of '/x': Invalid argument", &limit),
            ("cp: failed to preserve ownership for '/x': Invalid argument", &limit),
        ]);
    }

    #[test]
    fn memory_that_ran_out() {
        let line = ["x".to_owned()];
        let ending = |out_of_memory, signal| Ending { out_of_memory, signal, code: None };
        assert_eq!(hint(&line, ending(true, None)), Some(MEMORY));
        assert_eq!(hint(&line, ending(false, Some(9))), Some(MEMORY));
        assert_eq!(hint(&line, Ending { code: Some(137), ..Ending::default() }), Some(MEMORY));
        assert_eq!(hint(&line, Ending { code: Some(1), ..Ending::default() }), None);
        assert_eq!(hint(&["Killed".to_owned()], Ending::default()), Some(MEMORY));
        assert_eq!(of("c++: fatal error: Killed signal terminated program cc1plus"), Some(MEMORY));
        assert_eq!(hint(&line, ending(false, Some(15))), None);
    }

    #[test]
    fn the_cause_wins_over_its_consequence_and_nothing_is_made_up() {
        let lines = ["error: command 'gcc' failed with exit code 1", "a.c:1:10: fatal error: Python.h: No such file"];
        let lines: Vec<String> = lines.map(str::to_owned).to_vec();
        assert!(hint(&lines, Ending::default()).unwrap().contains("python3-dev"));
        assert_eq!(of("make: *** [all] Error 1"), None);
        assert_eq!(hint(&[], Ending::default()), None);
    }
}
