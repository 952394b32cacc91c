//! Dockerfiles with several stages: what refers to what, what is built, and what is in a key.

#![allow(clippy::unwrap_used, reason = "a panic is the report of a test")]

use std::collections::BTreeMap;

use dorian_image_plan::{Action, ContextFile, Facts, From, Input, Mount, Origin, Plan, Recipe, parse, plan};

fn recipe(text: &str) -> Recipe {
    Recipe::from_instructions(parse(&[text]).unwrap(), &BTreeMap::new(), &[]).unwrap().unwrap()
}

fn facts() -> Facts {
    let file = |path: &str| ContextFile { path: path.to_owned(), digest: format!("of {path}"), mode: 0o644 };
    Facts { context: vec![file("/a.txt"), file("/src/b.txt"), file("/x.tar.gz")], ..Facts::default() }
}

fn planned(text: &str) -> Plan {
    plan(&recipe(text), &facts()).unwrap()
}

fn refused(text: &str) -> String {
    let outcome = parse(&[text]).and_then(|instructions| {
        let recipe = Recipe::from_instructions(instructions, &BTreeMap::new(), &[])?.unwrap();
        plan(&recipe, &facts())
    });
    outcome.unwrap_err().to_string()
}

#[test]
fn only_what_the_last_stage_needs_is_planned() {
    let text = "FROM a AS base\nRUN one\nFROM base AS unused\nCOPY missing /x\nFROM b AS tools\nRUN two\n\
                FROM base\nRUN --mount=from=tools,target=/t three\nCOPY --from=0 /x /y";
    let found = planned(text);
    let indices: Vec<usize> = found.stages.iter().map(|stage| stage.index).collect();
    assert_eq!(indices, [0, 2, 3]);
    assert_eq!(found.last().unwrap().from, From::Stage(0));
    let headers: Vec<String> =
        found.stages.iter().flat_map(|stage| &stage.steps).map(|step| step.place.header(&step.title)).collect();
    assert_eq!(headers[..2], ["=> [base 2/2] RUN one", "=> [tools 2/2] RUN two"]);
    assert_eq!(headers[3], "=> [stage-3 3/3] COPY --from=0 /x /y");
    let alone = planned("FROM a\nENV A=1\nRUN x");
    assert_eq!(alone.stages[0].steps[0].place.header("RUN x"), "=> Step 3/3: RUN x");
    let bases: Vec<String> = recipe(text).base_images().iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(bases, ["a", "b"]);
}

#[test]
fn instructions_that_make_no_layer_keep_their_numbers() {
    let found = planned("FROM a\nENV A=1\nRUN x\nLABEL b=c\nUSER d\nRUN y\nARG E=1");
    let stage = found.last().unwrap();
    let numbers = |next: Option<usize>| -> Vec<usize> {
        stage.settings_before(next.map(|at| &stage.steps[at])).map(|setting| setting.place.number).collect()
    };
    assert_eq!((numbers(Some(0)), numbers(Some(1)), numbers(None)), (vec![2], vec![4, 5], vec![7]));
    let alone = planned("FROM a\nENV A=1\nUSER b");
    assert_eq!(alone.last().unwrap().settings_before(None).count(), 2);
}

#[test]
fn stages_are_found_by_name_in_any_case_by_number_and_through_arguments() {
    let text = "ARG FIRST=build\nFROM a AS Build\nFROM ${FIRST} AS next\nARG WHICH=BUILD\nCOPY --from=$WHICH /x /y\n\
                COPY --from=0 /x /y\nCOPY --from=debian:12 /x /y";
    let found = recipe(text);
    assert_eq!(found.stages[1].from, From::Stage(0));
    let origins: Vec<Origin> = found.stages[1].origins.iter().flatten().cloned().collect();
    assert_eq!(origins, [Origin::Stage(0), Origin::Stage(0), Origin::Image("debian:12".to_owned())]);
}

#[test]
fn a_stage_inherits_configuration_and_arguments_of_the_stage_it_starts_from() {
    let text = "FROM a AS one\nARG A=1\nENV E=$A\nWORKDIR /w\nFROM one\nRUN x";
    let found = planned(text);
    let last = found.last().unwrap();
    let Action::Run { env, workdir, .. } = &last.steps[0].action else { panic!() };
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!((env.as_slice(), workdir.as_str()), ([pair("A", "1"), pair("E", "1")].as_slice(), "/w"));
    // Not from another stage before it.
    let found = planned("FROM a AS one\nARG A=1\nFROM a\nCOPY --from=one /x /y\nRUN x");
    let Action::Run { env, .. } = &found.last().unwrap().steps[1].action else { panic!() };
    assert!(env.is_empty());
}

#[test]
fn a_name_that_is_a_stage_and_an_image_is_the_earlier_stage_or_the_image() {
    let found = recipe("FROM debian AS debian\nFROM debian AS other");
    assert_eq!((&found.stages[0].from, &found.stages[1].from), (&From::Image("debian".to_owned()), &From::Stage(0)));
    let found = recipe("FROM debian AS one\nFROM debian AS debian\nCOPY --from=one /x /y");
    assert_eq!(found.stages[0].from, From::Image("debian".to_owned()));
    // A name that the caller knows as an image is one, whatever comes later.
    let instructions = parse(&["FROM base\nFROM x AS base\nFROM base"]).unwrap();
    let found = Recipe::from_instructions(instructions, &BTreeMap::new(), &["base"]).unwrap().unwrap();
    assert_eq!(found.stages[2].from, From::Image("base".to_owned()));
}

#[test]
fn references_that_cannot_be_are_shown_where_they_are() {
    let expected = "\
line 2: `self` is this stage itself: it can only use earlier ones
2 | COPY --from=self /x /y
  |      ^^^^^^^^^^^";
    assert_eq!(refused("FROM a AS self\nCOPY --from=self /x /y"), expected);
    let expected = "\
line 1: stage `late` comes later: a stage can only start from an earlier one
1 | FROM late AS early
  |      ^^^^";
    assert_eq!(refused("FROM late AS early\nFROM early AS late"), expected);
    let cases = [
        ("FROM a\nCOPY --from=late /x /y\nFROM a AS late", "stage `late` comes later"),
        ("FROM a\nCOPY --from=0 /x /y", "this stage itself"),
        ("FROM a\nCOPY --from=7 /x /y", "there is no stage 7"),
        ("FROM a\nCOPY --from=99999999999999999999999 /x /y", "there is no stage"),
        ("FROM a AS build\nFROM a\nCOPY --from=biuld /x /y", "did you mean `build`"),
        ("FROM a AS build\nFROM a\nRUN --mount=type=bind,from=biuld,target=/x y", "did you mean `build`"),
        ("FROM a AS one\nFROM b AS ONE", "two stages named `one`"),
        ("FROM a\nCOPY --from= /x /y", "neither a stage nor an image"),
        ("FROM a AS b\nFROM b\nCOPY --from=b /x /y /z", "several sources"),
    ];
    for (text, sign) in cases {
        let shown = refused(text);
        assert!(shown.contains(sign) && shown.contains('^'), "{text:?}: {shown}");
    }
}

#[test]
fn a_copy_from_a_stage_depends_on_what_the_stage_is_and_not_on_its_name() {
    let step = |text: &str| planned(text).stages.pop().unwrap().steps.pop().unwrap();
    let one = step("FROM a AS one\nRUN x\nFROM b\nCOPY --from=one /x /y");
    let two = step("FROM c\nFROM a AS two\nRUN x\nFROM b\nCOPY --from=two /x /y");
    assert_eq!(one.fingerprint, two.fingerprint);
    assert_eq!(one.inputs, [Input::Origin(Origin::Stage(0))]);
    assert_ne!(one.cause(&["this".to_owned()]), one.cause(&["that".to_owned()]));
    assert_ne!(one.fingerprint, step("FROM a AS one\nRUN x\nFROM b\nCOPY --from=one /x /z").fingerprint);
}

#[test]
fn a_stage_is_made_only_for_steps_that_are_missing() {
    let text = "FROM a AS compile\nRUN x\nFROM a AS parent\nRUN y\nFROM a AS tools\nCOPY --from=compile /x /y\n\
                FROM parent\nCOPY --from=tools /y /y\nRUN z";
    let plan = planned(text);
    let made = |missing: &[(usize, usize)]| -> Vec<usize> {
        plan.stages_to_make(&|stage, step| missing.contains(&(stage, step))).into_iter().collect()
    };
    assert_eq!(made(&[]), [1, 3]);
    assert_eq!(made(&[(0, 0), (2, 0), (3, 1)]), [1, 3]);
    assert_eq!(made(&[(0, 0), (3, 0)]), [1, 2, 3]);
    assert_eq!(made(&[(0, 0), (2, 0), (3, 0)]), [0, 1, 2, 3]);
}

#[test]
fn mounts_are_part_of_a_steps_key_and_what_they_hold_is_not() {
    let step = |mount: &str, secrets: &[&str]| {
        let secret_names = secrets.iter().map(|name| (*name).to_owned()).collect();
        let found = plan(&recipe(&format!("FROM a\nRUN {mount} x")), &Facts { secret_names, ..facts() }).unwrap();
        found.stages.into_iter().next().unwrap().steps.remove(0)
    };
    let texts = [
        "",
        "--mount=type=cache,target=/c",
        "--mount=type=cache,target=/c,id=other",
        "--mount=type=cache,target=/c,sharing=locked",
        "--mount=type=cache,target=/c,uid=1000",
        "--mount=type=tmpfs,target=/c",
        "--mount=type=tmpfs,target=/c,size=1m",
        "--mount=type=bind,target=/c",
        "--mount=type=bind,source=src,target=/c",
        "--mount=type=bind,source=a.txt,target=/c",
        "--mount=type=bind,source=a.txt,target=/c,rw",
        "--mount=type=secret,id=T",
        "--mount=type=secret,id=T,env=T",
    ];
    let mut keys: Vec<_> = texts.iter().map(|text| step(text, &["T"]).fingerprint).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), texts.len());
    // A secret that is not there and need not be is no mount at all.
    let Action::Run { mounts, .. } = step("--mount=type=secret,id=T", &[]).action else { panic!() };
    assert!(mounts.is_empty());
    let Action::Run { mounts, .. } = step("--mount=type=secret,id=T", &["T"]).action else { panic!() };
    let Mount::Secret { target, env, owned, .. } = &mounts[0] else { panic!() };
    assert_eq!((target.as_deref(), env, owned.mode), (Some("/run/secrets/T"), &None, 0o400));
}

#[test]
fn options_of_a_mount_take_variables_and_paths_relative_to_the_folder() {
    let text =
        "FROM a\nWORKDIR /work\nARG NAME=pip\nRUN --mount=type=cache,target=cache/$NAME,id=\"${NAME} packages\" x";
    let Action::Run { mounts, .. } = &planned(text).stages[0].steps[1].action else { panic!() };
    let Mount::Cache { id, target, .. } = &mounts[0] else { panic!() };
    assert_eq!((id.as_str(), target.as_str()), ("pip packages", "/work/cache/pip"));
}

#[test]
fn a_download_with_a_checksum_is_known_by_it_and_one_without_by_its_content() {
    let sum = format!("sha256:{}", "a".repeat(64));
    let step = |text: &str| planned(&format!("FROM a\n{text}")).stages.pop().unwrap().steps.pop().unwrap();
    assert_eq!(step("ADD https://h/f /x").inputs, [Input::Download("https://h/f".to_owned())]);
    let checked = step(&format!("ADD --checksum={sum} https://h/f /x"));
    assert!(checked.inputs.is_empty());
    let other = step(&format!("ADD --checksum={} https://h/f /x", sum.replace("aa", "bb")));
    assert_ne!(checked.fingerprint, other.fingerprint);
}

#[test]
fn add_unpacks_files_and_copy_does_not() {
    let items = |text: &str| match planned(&format!("FROM a\n{text}")).stages.pop().unwrap().steps.pop().unwrap().action
    {
        Action::Copy { items, .. } => items,
        other => panic!("{other:?}"),
    };
    assert_eq!(items("ADD x.tar.gz /opt/")[1].unpack_into.as_deref(), Some("/opt"));
    assert_eq!(items("ADD --unpack=false x.tar.gz /opt/")[1].unpack_into, None);
    assert_eq!(items("COPY x.tar.gz /opt/")[1].unpack_into, None);
    // What lies in a folder stays as it is, and so does a download unless it is asked for.
    assert!(items("ADD . /opt/").iter().all(|item| item.unpack_into.is_none()));
    assert_eq!(items("ADD https://h/f.tar /opt/")[1].unpack_into, None);
    assert_eq!(items("ADD --unpack=true https://h/f.tar /opt/")[1].unpack_into.as_deref(), Some("/opt"));
}
