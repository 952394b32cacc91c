//! A layer's key changes exactly when something changes that can change the layer.

#![allow(clippy::unwrap_used, reason = "a panic is the report of a test")]

use dorian_image_plan::{ContextFile, Facts, LayerKey, Recipe, VolumeMount, parse, plan};
use proptest::prelude::*;

#[derive(Debug, Clone)]
struct Case {
    lines: Vec<String>,
    facts: Facts,
}

impl Case {
    fn keys(&self) -> Vec<LayerKey> {
        let instructions = parse(&self.lines).unwrap();
        let recipe = Recipe::from_instructions(instructions, &self.facts.build_args, &[]).unwrap().unwrap();
        let mut parent = LayerKey::empty();
        let steps = plan(&recipe, &self.facts).unwrap().stages.pop().unwrap().steps;
        steps
            .iter()
            .map(|step| {
                parent = parent.child(&step.fingerprint);
                parent.clone()
            })
            .collect()
    }
}

/// Instructions that are always accepted.
fn line() -> impl Strategy<Value = String> {
    let word = "[a-z]{1,6}";
    prop_oneof![
        word.prop_map(|w| format!("RUN {w}")),
        word.prop_map(|w| format!("RUN [\"{w}\", \"x\"]")),
        (word, word).prop_map(|(n, v)| format!("ENV {n}={v}")),
        (word, word).prop_map(|(n, v)| format!("ARG {n}={v}")),
        word.prop_map(|w| format!("WORKDIR /{w}")),
        word.prop_map(|w| format!("LABEL l={w}")),
        Just("COPY file /there/".to_owned()),
        Just("COPY . /all".to_owned()),
        word.prop_map(|w| format!("COPY <<EOF /doc\n{w}\nEOF")),
        Just("USER someone".to_owned()),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    let args = prop::collection::btree_map("[a-z]{1,6}", "[a-z]{0,4}", 0..3);
    (prop::collection::vec(line(), 0..12), args, "[0-9a-f]{8}").prop_map(|(lines, build_args, digest)| {
        let file = |path: &str| ContextFile { path: path.to_owned(), digest: digest.clone(), mode: 0o644 };
        let facts = Facts { build_args, context: vec![file("/file"), file("/deep/other")], ..Facts::default() };
        Case { lines: std::iter::once("FROM base".to_owned()).chain(lines).collect(), facts }
    })
}

fn first_difference(a: &[LayerKey], b: &[LayerKey]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

proptest! {
    #[test]
    fn planning_twice_gives_the_same_keys(case in case()) {
        prop_assert_eq!(case.keys(), case.keys());
    }

    #[test]
    fn another_line_at_the_end_changes_no_earlier_key(case in case(), extra in line()) {
        let mut longer = case.clone();
        longer.lines.push(extra);
        let (short, long) = (case.keys(), longer.keys());
        prop_assert_eq!(&long[..short.len()], &short[..]);
    }

    #[test]
    fn a_change_shows_from_its_own_layer_on_and_in_every_later_one(case in case(), at in any::<prop::sample::Index>()) {
        let mut changed = case.clone();
        let at = 1 + at.index(case.lines.len());
        changed.lines.insert(at, "RUN something-else".to_owned());
        let (before, after) = (case.keys(), changed.keys());
        prop_assert_eq!(after.len(), before.len() + 1);
        let first = first_difference(&before, &after);
        for key in &after[first..] {
            prop_assert!(!before.contains(key));
        }
    }

    #[test]
    fn labels_comments_and_unused_arguments_change_nothing(case in case(), value in "[a-z]{1,5}") {
        let mut changed = case.clone();
        changed.lines.insert(1, format!("LABEL z={value}"));
        changed.lines.insert(1, format!("# {value}"));
        changed.lines.push(format!("CMD [\"{value}\"]"));
        changed.lines.push(format!("EXPOSE 80{}", value.len()));
        changed.facts.build_args.insert("never_declared".to_owned(), value);
        prop_assert_eq!(case.keys(), changed.keys());
    }

    #[test]
    fn context_files_matter_where_they_are_copied_and_nowhere_else(case in case(), digest in "[g-z]{8}") {
        let mut changed = case.clone();
        changed.facts.context[1].digest = digest;
        let (before, after) = (case.keys(), changed.keys());
        let copies_all = case.lines.iter().any(|line| line == "COPY . /all");
        prop_assert_eq!(before != after, copies_all);
    }

    #[test]
    fn a_file_mode_is_part_of_the_copied_file(case in case()) {
        let mut changed = case.clone();
        changed.facts.context[0].mode = 0o755;
        let copies = case.lines.iter().any(|line| line.starts_with("COPY file") || line.starts_with("COPY ."));
        prop_assert_eq!(case.keys() != changed.keys(), copies);
    }

    #[test]
    fn a_secrets_name_matters_to_run(case in case()) {
        let mut changed = case.clone();
        changed.facts.secret_names = vec!["TOKEN".to_owned()];
        let runs = case.lines.iter().any(|line| line.starts_with("RUN"));
        prop_assert_eq!(case.keys() != changed.keys(), runs);
    }

    #[test]
    fn an_error_shows_the_line_it_is_about(prefix in prop::collection::vec(line(), 0..5)) {
        let mut lines = vec!["FROM base".to_owned()];
        lines.extend(prefix);
        let text = lines.join("\n");
        let error = parse(&[format!("{text}\nNOPE x")]).unwrap_err();
        prop_assert_eq!(error.position.line, text.lines().count() + 1);
        prop_assert_eq!(error.position.text, "NOPE x");
    }
}

#[test]
fn an_argument_declared_later_does_not_change_an_earlier_step() {
    let facts = |value: &str| Facts { build_args: [("A".to_owned(), value.to_owned())].into(), ..Facts::default() };
    let lines: Vec<String> = ["FROM base", "RUN one", "ARG A", "RUN two"].map(str::to_owned).to_vec();
    let keys = |value| Case { lines: lines.clone(), facts: facts(value) }.keys();
    let (one, two) = (keys("1"), keys("2"));
    assert_eq!(first_difference(&one, &two), 1);
}

#[test]
fn which_volumes_are_where_is_in_the_key_of_a_run_and_of_nothing_else() {
    let volume = |target: &str, id: &str, read_only, sub_path: Option<&str>| VolumeMount {
        target: target.to_owned(),
        id: id.to_owned(),
        read_only,
        sub_path: sub_path.map(str::to_owned),
    };
    let lines: Vec<String> = ["FROM base", "WORKDIR /x", "RUN one"].map(str::to_owned).to_vec();
    let keys =
        |volumes: Vec<VolumeMount>| Case { lines: lines.clone(), facts: Facts { volumes, ..Facts::default() } }.keys();
    let all = [
        keys(vec![]),
        keys(vec![volume("/v", "vo-1", false, None)]),
        keys(vec![volume("/w", "vo-1", false, None)]),
        keys(vec![volume("/v", "vo-2", false, None)]),
        keys(vec![volume("/v", "vo-1", true, None)]),
        keys(vec![volume("/v", "vo-1", false, Some("a"))]),
        keys(vec![volume("/v", "vo-1", false, None), volume("/w", "vo-2", false, None)]),
    ];
    for (at, one) in all.iter().enumerate() {
        assert!(all[..at].iter().all(|other| first_difference(one, other) == 1), "{at}");
    }
}
