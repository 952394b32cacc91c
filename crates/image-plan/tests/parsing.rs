//! Dockerfiles as people write them.

#![allow(clippy::unwrap_used, reason = "a panic is the report of a test")]

use std::collections::BTreeMap;

use dorian_image_plan::{Action, Command, Facts, From, ImageConfig, Kind, Recipe, StagePlan, parse, plan};

fn kinds(text: &str) -> Vec<Kind> {
    parse(&[text]).unwrap().into_iter().map(|instruction| instruction.kind).collect()
}

fn planned(text: &str) -> StagePlan {
    let recipe = Recipe::from_instructions(parse(&[text]).unwrap(), &BTreeMap::new(), &[]).unwrap().unwrap();
    plan(&recipe, &Facts::default()).unwrap().stages.pop().unwrap()
}

/// What is shown to the user for a Dockerfile that cannot be built.
fn refused(text: &str) -> String {
    let error = parse(&[text]).and_then(|instructions| {
        let recipe = Recipe::from_instructions(instructions, &BTreeMap::new(), &[])?.unwrap();
        plan(&recipe, &Facts::default())
    });
    error.unwrap_err().to_string()
}

fn scripts(plan: &StagePlan) -> Vec<String> {
    plan.steps
        .iter()
        .filter_map(|step| match &step.action {
            Action::Run { argv, .. } => argv.last().cloned(),
            _ => None,
        })
        .collect()
}

#[test]
fn lines_are_continued_over_comments_and_blank_lines() {
    let found = kinds("FROM a\nRUN one && \\\n  # not this\n\n  two \\\n  three\nCMD [\"x\"]\n\n");
    assert_eq!(found.len(), 3);
    let Kind::Run { command: Command::Shell(script), .. } = &found[1] else { panic!() };
    assert_eq!(script.split_whitespace().collect::<Vec<_>>(), ["one", "&&", "two", "three"]);
}

#[test]
fn a_hash_inside_a_line_is_no_comment() {
    let Kind::Run { command: Command::Shell(script), .. } = &kinds("RUN echo a # b")[0] else { panic!() };
    assert_eq!(script, "echo a # b");
}

#[test]
fn an_escaped_backslash_does_not_continue_a_line() {
    assert_eq!(kinds("RUN echo a\\\\\nRUN b").len(), 2);
}

#[test]
fn the_escape_character_can_be_chosen() {
    let found = kinds("# escape=`\nFROM a\nRUN one `\n two");
    let Kind::Run { command: Command::Shell(script), .. } = &found[1] else { panic!() };
    assert_eq!(script, "one  two");
}

#[test]
fn the_escape_character_counts_in_values_too() {
    let found = planned("# syntax=docker/dockerfile:1\n# escape=`\nFROM a\nENV A=C:\\x B=`$A").config;
    assert_eq!((found.env("A"), found.env("B")), (Some("C:\\x"), Some("$A")));
}

#[test]
fn a_maintainer_and_a_health_check_change_nothing() {
    let text = "FROM a\nMAINTAINER me <me@example>\nHEALTHCHECK --interval=5m \\\n  CMD curl -f localhost || exit 1\nHEALTHCHECK NONE";
    let found = planned(text);
    assert!(found.steps.is_empty());
    assert_eq!(found.config, ImageConfig::default());
}

#[test]
fn a_proxy_given_as_an_argument_reaches_run_without_a_declaration_and_is_in_no_key() {
    let planned = |proxy: &str| {
        let recipe = Recipe::from_instructions(parse(&["FROM a\nRUN x"]).unwrap(), &BTreeMap::new(), &[]);
        let build_args = [("https_proxy".to_owned(), proxy.to_owned()), ("OTHER".to_owned(), proxy.to_owned())].into();
        let mut plan = plan(&recipe.unwrap().unwrap(), &Facts { build_args, ..Facts::default() }).unwrap();
        plan.stages.pop().unwrap().steps.pop().unwrap()
    };
    let (one, two) = (planned("http://one"), planned("http://two"));
    let Action::Run { env, unkeyed_env, .. } = &one.action else { panic!() };
    assert!(env.is_empty());
    assert_eq!(unkeyed_env, &[("https_proxy".to_owned(), "http://one".to_owned())]);
    assert_eq!(one.fingerprint, two.fingerprint);
}

#[test]
fn exec_form_is_json_and_anything_else_is_a_shell_command() {
    let Kind::Run { command, .. } = &kinds(r#"RUN ["a", "b\n\u00e9"]"#)[0] else { panic!() };
    assert_eq!(command, &Command::Exec(vec!["a".to_owned(), "b\né".to_owned()]));
    let Kind::Run { command, .. } = &kinds("RUN [ -f /x ] && echo y")[0] else { panic!() };
    assert_eq!(command, &Command::Shell("[ -f /x ] && echo y".to_owned()));
    let Kind::Run { command, .. } = &kinds("RUN ['a']")[0] else { panic!() };
    assert_eq!(command, &Command::Shell("['a']".to_owned()));
}

#[test]
fn a_here_document_that_is_the_whole_run_is_the_script() {
    let plan = planned("FROM scratch\nRUN <<EOF\necho one\necho two\nEOF\nRUN echo three");
    assert_eq!(scripts(&plan), ["echo one\necho two\n", "echo three"]);
}

#[test]
fn a_here_document_within_a_command_is_left_to_the_shell() {
    let plan = planned("FROM scratch\nRUN cat <<'EOF' > /x && echo done\n$A\nEOF\n");
    assert_eq!(scripts(&plan), ["cat <<'EOF' > /x && echo done\n$A\nEOF\n"]);
}

#[test]
fn tabs_are_dropped_only_where_asked_for() {
    let plan = planned("FROM scratch\nRUN <<-EOF\n\techo one\n\tEOF\n");
    assert_eq!(scripts(&plan), ["echo one\n"]);
}

#[test]
fn quotes_in_a_run_are_not_here_documents() {
    assert_eq!(kinds("RUN echo \"<<EOF\"\nRUN x").len(), 2);
    assert_eq!(kinds("RUN cat <<<word\nRUN x").len(), 2);
}

#[test]
fn env_takes_pairs_and_the_old_form() {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let found = planned("FROM scratch\nENV A=1 B='two words' C=\"$A\"\nENV D  the rest of it\nENV E=${A}x");
    let expected =
        [pair("A", "1"), pair("B", "two words"), pair("C", ""), pair("D", "the rest of it"), pair("E", "1x")];
    // `C` sees `A` as it was before the line.
    assert_eq!(found.config.env, expected);
}

#[test]
fn values_as_the_client_quotes_them_arrive_unchanged() {
    let found = planned("FROM scratch\nENV K='it'\"'\"'s $HOME \\ \"x\"'");
    assert_eq!(found.config.env("K"), Some("it's $HOME \\ \"x\""));
}

#[test]
fn a_value_with_line_breaks_arrives_when_it_is_one_entry() {
    let entries = ["FROM scratch", "ENV K='one\n# two\n\nthree'", "ENV L=4"];
    let recipe = Recipe::from_instructions(parse(&entries).unwrap(), &BTreeMap::new(), &[]).unwrap().unwrap();
    let config = plan(&recipe, &Facts::default()).unwrap().stages.pop().unwrap().config;
    assert_eq!((config.env("K"), config.env("L")), (Some("one\n# two\n\nthree"), Some("4")));
    let lines = ["FROM scratch", "ENV K='one", "ENV L=4'"];
    let recipe = Recipe::from_instructions(parse(&lines).unwrap(), &BTreeMap::new(), &[]).unwrap().unwrap();
    assert!(plan(&recipe, &Facts::default()).is_err());
}

#[test]
fn arguments_before_from_serve_from_and_are_declared_again_inside() {
    let text = "ARG TAG=3.11\nARG X=outer\nFROM python:${TAG}-slim\nARG X\nRUN echo";
    let recipe = Recipe::from_instructions(parse(&[text]).unwrap(), &BTreeMap::new(), &[]).unwrap().unwrap();
    assert_eq!(recipe.stages[0].from, From::Image("python:3.11-slim".to_owned()));
    let found = plan(&recipe, &Facts::default()).unwrap().stages.pop().unwrap();
    let Action::Run { env, .. } = &found.steps[0].action else { panic!() };
    assert_eq!(env, &[("X".to_owned(), "outer".to_owned())]);
}

#[test]
fn configuration_instructions_end_up_in_the_configuration() {
    let text = "FROM scratch\nWORKDIR /a\nWORKDIR b\nUSER me\nSHELL [\"/bin/bash\", \"-c\"]\nENTRYPOINT go\n\
                CMD [\"x\"]\nLABEL a=b\nEXPOSE 80 81/udp\nVOLUME /data\nSTOPSIGNAL SIGINT\nHEALTHCHECK CMD true";
    let found = planned(text).config;
    let expected = ImageConfig {
        workdir: Some("/a/b".to_owned()),
        entrypoint: ["/bin/bash", "-c", "go"].map(str::to_owned).to_vec(),
        cmd: vec!["x".to_owned()],
        user: Some("me".to_owned()),
        shell: Some(["/bin/bash", "-c"].map(str::to_owned).to_vec()),
        labels: [("a".to_owned(), "b".to_owned())].into(),
        exposed_ports: ["80", "81/udp"].map(str::to_owned).into(),
        volumes: ["/data".to_owned()].into(),
        stop_signal: Some("SIGINT".to_owned()),
        ..ImageConfig::default()
    };
    assert_eq!(found, expected);
}

#[test]
fn a_new_entrypoint_drops_the_command_of_the_base() {
    let recipe = Recipe::from_instructions(parse(&["FROM x\nENTRYPOINT [\"a\"]"]).unwrap(), &BTreeMap::new(), &[]);
    let base = ImageConfig { cmd: vec!["old".to_owned()], ..ImageConfig::default() };
    let bases = [("x".to_owned(), base)].into();
    let found = plan(&recipe.unwrap().unwrap(), &Facts { bases, ..Facts::default() }).unwrap().stages.pop().unwrap();
    assert!(found.config.cmd.is_empty());
}

#[test]
fn an_error_points_at_its_line_and_column() {
    let expected = "\
line 2: unknown instruction `RUNN`, did you mean `RUN`
2 |   RUNN pip install x
  |   ^^^^";
    assert_eq!(refused("FROM a\n  RUNN pip install x"), expected);
}

#[test]
fn an_error_in_a_continued_line_points_at_the_physical_line() {
    let expected = "\
line 3: `B` is not of the form `name=value`
3 |     B
  |     ^";
    assert_eq!(refused("FROM a\nENV A=1 \\\n    B"), expected);
}

#[test]
fn an_error_in_a_flag_points_at_the_flag() {
    let expected = "\
line 3: `sharing=maybe`: it is `shared`, `private` or `locked`
3 |     --mount=type=cache,target=/x,sharing=maybe y
  |     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^";
    assert_eq!(refused("FROM a\nRUN \\\n    --mount=type=cache,target=/x,sharing=maybe y"), expected);
}

#[test]
fn an_unclosed_here_document_is_shown_where_it_begins() {
    let expected = "\
line 2: the here-document is not ended by a line `EOF`
2 | RUN cat <<EOF
  |         ^^^^^";
    assert_eq!(refused("FROM a\nRUN cat <<EOF\nx\n"), expected);
}

#[test]
fn what_is_not_supported_is_named() {
    let cases = [
        ("FROM a\nRUN --mount=type=ssh y", "--mount=type=ssh"),
        ("FROM a\nRUN --security=insecure x", "--security=insecure"),
        ("FROM a\nADD https://x/y.git /z", "git clone"),
        ("FROM a\nADD git@x:y /z", "git clone"),
        ("FROM a\nONBUILD RUN x", "ONBUILD"),
        ("FROM a\nCOPY --parents x /y", "--parents"),
        ("FROM a\nCOPY --chmod=u~x x /y", "octal"),
        ("FROM --platform=linux/arm64 a", "linux/arm64"),
        ("RUN x", "must be `FROM`"),
        ("FROM a\nCOPY missing /x", "`missing`"),
        ("FROM a\nENV A=${B:?needed}", "needed"),
        ("FROM a\nENV A=${B%x}", "${B...}"),
        ("FROM $NOTHING", "$NOTHING"),
        ("FROM a\nRUN", "needs an argument"),
        ("FROM a\nHEALTHCHECK CND true", "`NONE`, or `CMD`"),
        ("FROM a\nSHELL /bin/bash", "JSON list"),
        ("FROM a AS 1st", "begins with a letter"),
        ("FROM a\nADD --checksum=sha256:12 https://x/y /z", "64 hexadecimal digits"),
        ("FROM a\nADD missing.tar /z", "`COPY` of the same Dockerfile"),
        ("FROM a\nRUN --mount=type=bind,source=missing,target=/x y", "`COPY` of the same Dockerfile"),
        ("FROM a\nRUN --mount=type=secret,id=T,required=true y", "no secret `T`"),
        ("FROM a\nRUN --mount=type=cache y", "needs a `target`"),
    ];
    for (text, sign) in cases {
        let shown = refused(text);
        assert!(shown.contains(sign), "{text:?}: {shown}");
    }
}
