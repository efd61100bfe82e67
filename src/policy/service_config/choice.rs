//! Which of the service configs in DNS is meant for this client (A2).

use serde_json::{Map, Value};

use super::{ServiceConfigError, json};

/// What a choice may go by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client<'a> {
    /// The name of this machine, where it is known.
    pub(crate) hostname: Option<&'a str>,
    /// What was drawn for this resolution, from 0 to 99.
    pub(crate) draw: usize,
}

/// What was chosen.
pub(super) struct Chosen {
    /// Its place in the list.
    pub(super) index: usize,
    /// The service config.
    pub(super) config: Map<String, Value>,
}

/// The first choice in the list `text` that is meant for `client`; `None` if there is none.
///
/// The list must be right as a whole, down to the keys: a choice whose conditions are not
/// understood might be meant for somebody else. What lies in a service config is not looked at.
pub(super) fn choose(
    text: &[u8],
    client: Client<'_>,
) -> Result<Option<Chosen>, ServiceConfigError> {
    let list: Value = serde_json::from_slice(text)
        .map_err(|error| ServiceConfigError::new("", error.to_string()))?;
    let Value::Array(list) = list else {
        let reason = "the service configs in DNS must be a list of choices";
        return Err(ServiceConfigError::new("", reason));
    };
    let mut chosen = None;
    for (index, choice) in list.into_iter().enumerate() {
        let config = config_for(choice, client).map_err(|it| it.within(&format!("[{index}]")))?;
        chosen = chosen.or_else(|| config.map(|config| Chosen { index, config }));
    }
    Ok(chosen)
}

/// The service config of `choice`, if that is meant for `client`.
fn config_for(
    choice: Value,
    client: Client<'_>,
) -> Result<Option<Map<String, Value>>, ServiceConfigError> {
    let Value::Object(mut choice) = choice else {
        return Err(ServiceConfigError::new("", "must be an object"));
    };
    if let Some(unknown) = choice.keys().find(|key| !KEYS.contains(&key.as_str())) {
        let reason = format!("is not known; a choice has {}", KEYS.join(", "));
        return Err(ServiceConfigError::new(unknown.as_str(), reason));
    }
    let languages = texts(&choice, LANGUAGE)?;
    let percentage = percentage(&choice)?;
    let hostnames = texts(&choice, HOSTNAME)?;
    let config = match choice.remove(CONFIG) {
        None | Some(Value::Null) => Err(ServiceConfigError::new(CONFIG, "is missing")),
        Some(Value::Object(config)) => Ok(config),
        Some(_) => Err(ServiceConfigError::new(CONFIG, "must be an object")),
    }?;
    let is_meant = languages.is_none_or(|all| all.iter().any(|it| it.eq_ignore_ascii_case(RUST)))
        && percentage.is_none_or(|percentage| client.draw < percentage)
        && hostnames.is_none_or(|all| all.iter().any(|it| Some(it.as_str()) == client.hostname));
    Ok(is_meant.then_some(config))
}

/// The texts in the list `field`; an empty list says as little as none.
fn texts(
    choice: &Map<String, Value>,
    field: &str,
) -> Result<Option<Vec<String>>, ServiceConfigError> {
    let Some(value) = json::present(choice, field) else { return Ok(None) };
    let texts = json::list(value, field)?.iter().enumerate().map(|(index, value)| {
        let text = value.as_str().map(str::to_owned);
        text.ok_or_else(|| ServiceConfigError::new(format!("{field}[{index}]"), "must be a text"))
    });
    let texts = texts.collect::<Result<Vec<_>, _>>()?;
    Ok((!texts.is_empty()).then_some(texts))
}

fn percentage(choice: &Map<String, Value>) -> Result<Option<usize>, ServiceConfigError> {
    let Some(value) = json::present(choice, PERCENTAGE) else { return Ok(None) };
    let percentage = value.as_u64().filter(|percentage| *percentage <= 100);
    let reason = "must be a whole number from 0 to 100";
    match percentage.and_then(|percentage| usize::try_from(percentage).ok()) {
        Some(percentage) => Ok(Some(percentage)),
        None => Err(ServiceConfigError::new(PERCENTAGE, reason)),
    }
}

const LANGUAGE: &str = "clientLanguage";
const PERCENTAGE: &str = "percentage";
const HOSTNAME: &str = "clientHostname";
const CONFIG: &str = "serviceConfig";
const KEYS: [&str; 4] = [LANGUAGE, PERCENTAGE, HOSTNAME, CONFIG];

/// The language of this client.
const RUST: &str = "rust";

#[cfg(test)]
mod tests {
    use super::*;

    /// The place of the choice in `text` for a machine of this name and a draw.
    fn chosen(text: &str, hostname: Option<&str>, draw: usize) -> Option<usize> {
        choose(text.as_bytes(), Client { hostname, draw }).unwrap().map(|it| it.index)
    }

    // spec: A2/choice
    #[test]
    fn the_first_choice_counts_whose_conditions_all_hold() {
        let rows = [
            ("[]", None),
            (r#"[{"serviceConfig": {}}]"#, Some(0)),
            (r#"[{"serviceConfig": {}}, {"serviceConfig": {}}]"#, Some(0)),
            (r#"[{"clientLanguage": ["go", "c++"], "serviceConfig": {}}]"#, None),
            (r#"[{"clientLanguage": ["go", "RuSt"], "serviceConfig": {}}]"#, Some(0)),
            // What is empty or null sets no condition.
            (r#"[{"clientLanguage": [], "clientHostname": null, "serviceConfig": {}}]"#, Some(0)),
            (r#"[{"clientHostname": ["HERE", "there"], "serviceConfig": {}}]"#, None),
            (r#"[{"clientHostname": ["there", "here"], "serviceConfig": {}}]"#, Some(0)),
            (
                r#"[{"clientHostname": ["here"], "clientLanguage": ["go"], "serviceConfig": {}},
                    {"clientHostname": ["here"], "percentage": 0, "serviceConfig": {}},
                    {"percentage": 100, "clientLanguage": ["rust"], "serviceConfig": {}}]"#,
                Some(2),
            ),
        ];
        for (text, expected) in rows {
            assert_eq!(chosen(text, Some("here"), 0), expected, "{text}");
        }
        let here = r#"[{"clientHostname": ["here", ""], "serviceConfig": {}}]"#;
        assert_eq!(chosen(here, None, 0), None, "the name of this machine is not known");
    }

    // spec: A2/percentage
    #[test]
    fn a_percentage_of_the_draws_makes_a_choice() {
        for percentage in [0, 1, 50, 99, 100] {
            let text = format!(r#"[{{"percentage": {percentage}, "serviceConfig": {{}}}}]"#);
            let hits = (0..100).filter(|draw| chosen(&text, None, *draw).is_some()).count();
            assert_eq!(hits, percentage);
        }
    }

    // spec: A2/strict
    #[test]
    fn one_fault_spoils_the_whole_list_and_is_named() {
        let rows = [
            ("", "EOF"),
            ("{}", "the service configs in DNS must be a list of choices"),
            ("[1]", "[0]: must be an object"),
            ("[{}]", "[0].serviceConfig: is missing"),
            (r#"[{"serviceConfig": []}]"#, "[0].serviceConfig: must be an object"),
            // Also behind a choice that counts.
            (
                r#"[{"serviceConfig": {}}, {"serviceconfig": {}}]"#,
                "[1].serviceconfig: is not known; a choice has clientLanguage, percentage, \
                 clientHostname, serviceConfig",
            ),
            (
                r#"[{"serviceConfig": {}}, {"percentage": 101, "serviceConfig": {}}]"#,
                "[1].percentage: must be a whole number from 0 to 100",
            ),
            (r#"[{"percentage": -1, "serviceConfig": {}}]"#, "[0].percentage: must be a whole"),
            (r#"[{"percentage": 0.5, "serviceConfig": {}}]"#, "[0].percentage: must be a whole"),
            (r#"[{"percentage": "5", "serviceConfig": {}}]"#, "[0].percentage: must be a whole"),
            (
                r#"[{"clientLanguage": "rust", "serviceConfig": {}}]"#,
                "[0].clientLanguage: must be a list",
            ),
            (
                r#"[{"clientHostname": ["a", 1], "serviceConfig": {}}]"#,
                "[0].clientHostname[1]: must be a text",
            ),
        ];
        for (text, part) in rows {
            let client = Client { hostname: None, draw: 0 };
            let error = choose(text.as_bytes(), client).err().unwrap().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        let client = Client { hostname: None, draw: 0 };
        assert!(choose(b"[{\"clientHostname\": [\"\xff\"]}]", client).is_err());
    }
}
