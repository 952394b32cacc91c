//! Patterns: `*` for any characters of a name, `?` for one of them, `**` for any folders.

/// Whether `path` (its parts) matches `pattern` (its parts).
pub fn matches(pattern: &[&str], path: &[&str]) -> bool {
    // Which beginnings of the path the pattern so far can match. No backtracking: a hostile pattern costs no more.
    let mut possible = vec![false; path.len() + 1];
    possible[0] = true;
    for part in pattern {
        possible = match *part {
            "**" => {
                let mut seen = false;
                possible
                    .iter()
                    .map(|here| {
                        seen |= here;
                        seen
                    })
                    .collect()
            }
            part => {
                let mut next = vec![false; path.len() + 1];
                for (index, name) in path.iter().enumerate() {
                    next[index + 1] = possible[index] && name_matches(part, name);
                }
                next
            }
        };
    }
    // A pattern that ends in `**` means what is in the folder, not the folder.
    possible[path.len()] && !(pattern.last() == Some(&"**") && path.len() < pattern.len())
}

fn name_matches(pattern: &str, name: &str) -> bool {
    let name: Vec<char> = name.chars().collect();
    let mut possible = vec![false; name.len() + 1];
    possible[0] = true;
    for part in pattern.chars() {
        possible = match part {
            '*' => {
                let mut seen = false;
                possible
                    .iter()
                    .map(|here| {
                        seen |= here;
                        seen
                    })
                    .collect()
            }
            part => {
                let mut next = vec![false; name.len() + 1];
                for (index, character) in name.iter().enumerate() {
                    next[index + 1] = possible[index] && (part == '?' || part == *character);
                }
                next
            }
        };
    }
    possible[name.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, path: &str) -> bool {
        matches(&pattern.split('/').collect::<Vec<_>>(), &path.split('/').collect::<Vec<_>>())
    }

    #[test]
    fn stars_match_within_a_name_and_double_stars_across_folders() {
        assert!(check("*.txt", "a.txt") && !check("*.txt", "d/a.txt") && check("**", "d/a.txt"));
        assert!(check("d/**", "d/a") && check("d/**", "d/e/f") && !check("d/**", "d") && !check("d/**", "e/a"));
        assert!(check("**/a", "a") && check("**/a", "x/y/a") && check("a/**/b", "a/b") && check("a*c?", "abbcd"));
        assert!(!check("a", "b") && check("*", ".hidden") && check("ü*", "üx"));
    }

    #[test]
    fn a_hostile_pattern_costs_no_more() {
        let pattern = "*a".repeat(200);
        assert!(!check(&pattern, &"a".repeat(199)));
    }
}
