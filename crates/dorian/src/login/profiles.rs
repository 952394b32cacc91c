//! The text of the client's configuration file, before and after: one section per profile, `active = true` in one.

use anyhow::{Context, Result, bail};
use toml_edit::{DocumentMut, Item, Table, value};

use crate::client_settings::ClientSettings;

/// The profile that the client takes when none is marked.
const UNMARKED: &str = "default";

/// The text with this profile in it and active, and the profile that was active before, when it was another.
///
/// Keys of the profile that we do not know stay. Another profile's mark becomes `active = false` rather than going away:
/// clients read both alike, and a comment at that line survives.
pub fn with_active(text: &str, profile: &str, settings: &ClientSettings) -> Result<(String, Option<String>)> {
    let mut document: DocumentMut = text.parse().context("it is not valid TOML")?;
    if let Some((name, _)) = document.iter().find(|(_, item)| !item.is_table_like()) {
        bail!("`{name}` in it is not a section, and modal clients refuse such a file");
    }
    let previous = active(&document).filter(|previous| previous != profile);

    for (name, item) in document.iter_mut() {
        if name != profile && is_active(item) {
            set(item, "active", value(false));
        }
    }
    if !document.contains_key(profile) {
        document.insert(profile, Item::Table(new_section(text)));
    }
    let section = &mut document[profile];
    set(section, "server_url", value(settings.server_url()));
    set(section, "token_id", value(&settings.token_id));
    set(section, "token_secret", value(&settings.token_secret));
    if settings.is_never_behind_a_proxy() {
        // Older clients ignore the key.
        set(section, "disable_api_proxy", value(true));
    }
    set(section, "active", value(true));
    Ok((document.to_string(), previous))
}

fn active(document: &DocumentMut) -> Option<String> {
    let marked = document.iter().find(|(_, item)| is_active(item)).map(|(name, _)| name);
    marked.or_else(|| document.contains_key(UNMARKED).then_some(UNMARKED)).map(str::to_owned)
}

fn is_active(item: &Item) -> bool {
    item.get("active").and_then(Item::as_bool) == Some(true)
}

/// Sets a key and keeps the comment behind an old value.
fn set(section: &mut Item, key: &str, mut new: Item) {
    if let (Some(old), Some(new)) = (section.get(key).and_then(Item::as_value), new.as_value_mut()) {
        *new.decor_mut() = old.decor().clone();
    }
    match section.get_mut(key) {
        Some(old) => *old = new,
        None => section[key] = new,
    }
}

/// A section that a blank line parts from what stands before it.
fn new_section(text: &str) -> Table {
    let mut table = Table::new();
    table.decor_mut().set_prefix(if text.trim().is_empty() { "" } else { "\n" });
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client_settings::Host;

    fn settings() -> ClientSettings {
        ClientSettings {
            host: Host::Own(std::net::Ipv4Addr::LOCALHOST.into()),
            port: 9900,
            token_id: "ak-1".into(),
            token_secret: "as-1".into(),
        }
    }

    const SECTION: &str = "[dorian]\nserver_url = \"http://127.0.0.1:9900\"\ntoken_id = \"ak-1\"\n\
                           token_secret = \"as-1\"\ndisable_api_proxy = true\nactive = true\n";

    #[test]
    fn an_empty_file_gets_one_section() {
        assert_eq!(with_active("", "dorian", &settings()).unwrap(), (SECTION.to_owned(), None));
    }

    #[test]
    fn other_profiles_comments_and_order_stay() {
        let before = "# mine\n[work]\ntoken_id = \"ak-work\" # of the team\n\n[home]\ntoken_id = 'ak-home'\n\
                      # switched by hand\nactive = true # for now\n";
        let (after, previous) = with_active(before, "dorian", &settings()).unwrap();
        assert_eq!(after, before.replace("active = true", "active = false") + "\n" + SECTION);
        assert_eq!(previous.as_deref(), Some("home"));
    }

    #[test]
    fn doing_it_twice_changes_nothing() {
        let (once, _) = with_active("[default]\ntoken_id = \"ak-d\"\n", "dorian", &settings()).unwrap();
        assert_eq!(with_active(&once, "dorian", &settings()).unwrap(), (once, None));
    }

    #[test]
    fn a_profile_of_that_name_keeps_its_other_keys() {
        let before = "[dorian]\ntoken_id = \"ak-old\" # old\nloglevel = \"DEBUG\"\n";
        let (after, _) = with_active(before, "dorian", &settings()).unwrap();
        assert!(after.starts_with("[dorian]\ntoken_id = \"ak-1\" # old\nloglevel = \"DEBUG\"\n"), "{after}");
    }

    #[test]
    fn without_a_mark_the_default_profile_was_the_active_one() {
        let (_, previous) = with_active("[default]\ntoken_id = \"ak-d\"\n", "dorian", &settings()).unwrap();
        assert_eq!(previous.as_deref(), Some("default"));
    }

    #[test]
    fn sections_written_inline_or_with_quoted_names_are_understood() {
        let (after, previous) =
            with_active("work = { active = true }\n[\"my own\"]\nx = 1\n", "my own", &settings()).unwrap();
        assert!(after.contains("work = { active = false }") && after.contains("x = 1\nserver_url"), "{after}");
        assert_eq!(previous.as_deref(), Some("work"));
    }

    #[test]
    fn what_is_not_a_profile_file_is_refused() {
        assert!(with_active("[broken", "dorian", &settings()).is_err());
        assert!(with_active("loose = 1\n", "dorian", &settings()).is_err());
    }
}
