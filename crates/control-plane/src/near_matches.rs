//! Names that are close to one that does not exist. A message that says what may have been meant saves its reader a
//! look into another window.

/// No message lists more names than this.
const MOST: usize = 3;

/// Those of `known` that `wanted` may be a misspelling of, likeliest first: it differs in case only, in a letter or
/// two (more in long names), or one of the two begins with the other.
pub fn near_matches<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let folded = wanted.to_lowercase();
    let patience = 1 + folded.chars().count() / 4;
    let mut near: Vec<(usize, &str)> = Vec::new();
    for name in known {
        let candidate = name.to_lowercase();
        let begins = |a: &str, b: &str| b.chars().count() >= 3 && a.starts_with(b);
        let distance = edit_distance(&folded, &candidate, patience);
        // Any letter is one letter away from any other; only the case of one may be mistaken.
        let is_letter = folded.chars().count() < 2 || candidate.chars().count() < 2;
        if let Some(distance) = distance.filter(|distance| *distance == 0 || !is_letter) {
            near.push((distance, name));
        } else if begins(&candidate, &folded) || begins(&folded, &candidate) {
            near.push((patience + 1, name));
        }
    }
    near.sort();
    near.dedup();
    near.into_iter().take(MOST).map(|(_, name)| name).collect()
}

/// `; did you mean …?`, to be put behind a message, or nothing when no name is near.
pub fn did_you_mean<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let near: Vec<String> = near_matches(wanted, known).iter().map(|name| format!("`{name}`")).collect();
    match near.split_last() {
        None => String::new(),
        Some((only, [])) => format!("; did you mean {only}?"),
        Some((last, others)) => format!("; did you mean {} or {last}?", others.join(", ")),
    }
}

/// How many letters must be changed, added, taken away or swapped with their neighbour; `None` when more than `most`.
fn edit_distance(a: &str, b: &str, most: usize) -> Option<usize> {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().abs_diff(b.len()) > most {
        return None;
    }
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let change = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = change.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last.pop().filter(|distance| *distance <= most)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_misspelt_name_is_recognised_and_a_strange_one_is_not() {
        let known = ["Model", "Modeler", "train", "evaluate"];
        assert_eq!(near_matches("Modle", known)[0], "Model");
        assert_eq!(near_matches("model", known), ["Model", "Modeler"]);
        assert_eq!(near_matches("evaluat", known), ["evaluate"]);
        assert!(near_matches("deploy", known).is_empty());
    }

    #[test]
    fn the_question_names_one_two_or_three() {
        assert_eq!(did_you_mean("f", ["zebra"]), "");
        assert_eq!(did_you_mean("f", ["g", "fg"]), "");
        assert_eq!(did_you_mean("F", ["f", "g"]), "; did you mean `f`?");
        assert_eq!(did_you_mean("trian", ["train"]), "; did you mean `train`?");
        assert_eq!(did_you_mean("mod", ["mode", "model"]), "; did you mean `mode` or `model`?");
    }

    proptest! {
        #[test]
        fn a_name_is_always_near_itself_and_any_text_is_taken(name in ".{0,30}", other in ".{0,30}") {
            prop_assert_eq!(near_matches(&name, [name.as_str()]), [name.as_str()]);
            near_matches(&name, [other.as_str()]);
        }
    }
}
