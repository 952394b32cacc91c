//! Text that nobody would write: no panic, no endless work, and errors that point into the text.

#![allow(clippy::unwrap_used, reason = "a panic is the report of a test")]

use dorian_image_plan::{ContextFile, DockerfileError, Facts, Plan, Recipe, parse, plan};
use proptest::prelude::*;

/// As a builder does it.
fn build(entries: &[String], facts: &Facts) -> Result<Option<Plan>, DockerfileError> {
    let recipe = Recipe::from_instructions(parse(entries)?, &facts.build_args, &["base"])?;
    recipe.map(|recipe| plan(&recipe, facts)).transpose()
}

fn facts() -> Facts {
    let file = |path: &str| ContextFile { path: path.to_owned(), digest: "d".to_owned(), mode: 0o644 };
    Facts {
        build_args: [("A".to_owned(), "x y,z=".to_owned()), ("http_proxy".to_owned(), "p".to_owned())].into(),
        context: vec![file("/a"), file("/é/b"), file("/src/a.tar")],
        secret_names: vec!["T".to_owned()],
        ..Facts::default()
    }
}

/// Pieces of which mistakes are made.
fn piece() -> impl Strategy<Value = String> {
    let fixed = [
        "FROM a AS b\n",
        "FROM b\n",
        "from scratch\n",
        "RUN ",
        "COPY ",
        "ADD ",
        "ENV ",
        "ARG ",
        "ARG A\n",
        "LABEL ",
        "SHELL ",
        "HEALTHCHECK ",
        "VOLUME ",
        "EXPOSE 1\n",
        "WORKDIR ",
        "USER ",
        "ONBUILD ",
        "CMD ",
        "MAINTAINER ",
        "STOPSIGNAL ",
        "--mount=",
        "type=",
        "cache",
        "bind",
        "secret",
        "tmpfs",
        ",",
        "target=",
        "source=",
        "from=",
        "id=T",
        "size=",
        "9g",
        "mode=",
        "0755",
        "--from=",
        "--chmod=",
        "u+x",
        "--chown=",
        "--exclude=",
        "--checksum=sha256:",
        "--unpack=",
        "--",
        "https://h/f",
        "git@h:r",
        "<<EOF",
        "<<-'E'",
        "EOF",
        "E",
        "\n",
        "\r\n",
        "\\\n",
        "`\n",
        "# escape=`\n",
        "# x\n",
        "\\",
        "`",
        " ",
        "  ",
        "\t",
        "\"",
        "'",
        "=",
        "$A",
        "${A:-",
        "${",
        "}",
        ":?",
        "$",
        "[",
        "]",
        "[\"x\", \"y\"]",
        "\"\\u",
        "d800",
        "é",
        "\u{3000}",
        "\u{0}",
        "*",
        "**",
        "?",
        "[a-",
        "/",
        "..",
        ".",
        "a",
        "b",
        "0",
        "src",
        "99999999999999999999",
    ];
    prop_oneof![
        20 => prop::sample::select(fixed.to_vec()).prop_map(str::to_owned),
        1 => "\\PC{0,6}",
        1 => any::<String>().prop_map(|text| text.chars().take(6).collect()),
    ]
}

fn text() -> impl Strategy<Value = String> {
    (prop::bool::weighted(0.8), prop::collection::vec(piece(), 0..40)).prop_map(|(starts_well, pieces)| {
        let start = if starts_well { "FROM a\n" } else { "" };
        format!("{start}{}", pieces.concat())
    })
}

fn check(entries: &[String]) -> Result<(), TestCaseError> {
    let Err(error) = build(entries, &facts()) else { return Ok(()) };
    let lines: Vec<String> = entries
        .iter()
        .flat_map(|entry| entry.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line).to_owned()))
        .collect();
    let position = &error.position;
    prop_assert!((1..=lines.len()).contains(&position.line), "{error:?}");
    prop_assert_eq!(&lines[position.line - 1], &position.text);
    let width = position.text.chars().count();
    prop_assert!(position.column >= 1 && position.column <= width.max(1), "{:?}", error);
    prop_assert!(position.length >= 1 && position.column + position.length - 1 <= width.max(1), "{:?}", error);
    prop_assert!(error.to_string().ends_with('^'));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_parser_or_planner_panic_and_errors_point_into_it(text in text()) {
        check(std::slice::from_ref(&text))?;
        check(&text.split('\n').map(str::to_owned).collect::<Vec<_>>())?;
    }

    #[test]
    fn no_characters_at_all_do_either(text in any::<String>()) {
        check(&[format!("FROM a\n{text}")])?;
        check(&[text])?;
    }
}

#[test]
fn long_and_deep_text_is_refused_or_planned_in_no_time() {
    let started = std::time::Instant::now();
    let deep = format!("FROM a\nENV A={}", "${B:-".repeat(200_000));
    let stars = format!("FROM a\nCOPY {}b /x", "*a".repeat(2_000));
    let stages: String = (1..2_000).map(|index| format!("FROM s{} AS s{index}\nRUN x\n", index - 1)).collect();
    let continued = format!("FROM a\nRUN {}x", "y \\\n".repeat(50_000));
    for text in [deep, stars, format!("FROM a AS s0\n{stages}"), continued] {
        let _ = build(&[text], &facts());
    }
    assert!(started.elapsed() < std::time::Duration::from_secs(10), "{:?}", started.elapsed());
}
