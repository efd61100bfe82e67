//! What applications write: targets, service configs, metadata.

use std::collections::BTreeMap;

use switchboard::fuzzing::has_service_config;
use switchboard::{BuildError, Channel, Credentials, InvalidMetadata, Metadata};

use super::input::Input;

/// A target, and an authority behind a line break: the channel is built, or an error says what is
/// wrong. The whole form of a target that is taken is taken too, and is its own whole form.
pub fn target(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (target, authority) = match text.split_once('\n') {
        Some((target, authority)) => (target, Some(authority)),
        None => (text, None),
    };
    let build = |target: &str| -> Result<Channel, BuildError> {
        let builder = Channel::builder(target).credentials(Credentials::insecure()).no_proxy();
        match authority {
            Some(authority) => builder.authority(authority).build(),
            None => builder.build(),
        }
    };
    match build(target) {
        Ok(channel) => {
            let whole = channel.target();
            // It is shown without escapes, so what they stood for can be read as something else.
            if !target.contains('%') {
                let again = build(&whole).map(|channel| channel.target());
                assert_eq!(again, Ok(whole), "{target:?}");
            }
        }
        Err(error) => assert!(!error.to_string().is_empty(), "{target:?}"),
    }
}

/// A service config: the channel is built, or an error names the field. The same JSON in its
/// shortest form comes to the same.
///
/// And a list of configs in DNS: one is chosen or none, or an error names the field. Who draws the
/// most is meant by no choice that does not mean who draws the least.
pub fn service_config(input: &[u8]) {
    let (least, most) = (has_service_config(input, 0), has_service_config(input, 99));
    if let Err(error) = &least {
        assert!(!error.reason().is_empty(), "{input:?}");
    }
    assert!(least != Ok(false) || most != Ok(true), "{input:?}");
    let Ok(text) = std::str::from_utf8(input) else { return };
    let build = |json: &str| -> Result<(), BuildError> {
        let builder = Channel::builder("ipv4:10.0.0.7:1").credentials(Credentials::insecure());
        builder.no_proxy().default_service_config(json).build().map(drop)
    };
    let outcome = build(text);
    if let Err(error) = &outcome {
        let BuildError::InvalidServiceConfig(error) = error else { panic!("{text}: {error}") };
        assert!(!error.reason().is_empty(), "{text}");
    }
    if let Ok(value) = serde_json::from_str::<serde_json::Value>(text) {
        assert_eq!(build(&value.to_string()), outcome, "{text}");
    }
}

/// Keys and values, set and taken away again: what was taken is there, whole and in order, and
/// nothing else is.
pub fn metadata(input: &[u8]) {
    let mut input = Input::new(input);
    let mut metadata = Metadata::new();
    let mut model = Model::default();
    while !input.is_empty() {
        let what = input.below(6);
        let key = input.piece();
        let value = input.piece();
        let (Ok(key), lossy) = (std::str::from_utf8(key), String::from_utf8_lossy(value)) else {
            continue;
        };
        let name = key.to_ascii_lowercase();
        let done = match what {
            0 => metadata.append(key, &lossy),
            1 => metadata.insert(key, &lossy),
            2 => metadata.append_bin(key, value),
            3 => metadata.insert_bin(key, value),
            4 => {
                assert_eq!(metadata.remove(key), model.remove(&name).is_some(), "{key:?}");
                Ok(())
            }
            // The same key again and again.
            _ => metadata.append("k", &lossy),
        };
        let name = if what == 5 { "k".to_owned() } else { name };
        match (done, what) {
            (Ok(()), 0 | 2 | 5) => model.entry(name).or_default().push(value.to_vec()),
            (Ok(()), 1 | 3) => drop(model.insert(name, vec![value.to_vec()])),
            (Ok(()), _) => {}
            (Err(error), _) => names_the_key(&error, if what == 5 { "k" } else { key }),
        }
        agree(&metadata, &model, key);
    }
}

type Model = BTreeMap<String, Vec<Vec<u8>>>;

fn names_the_key(error: &InvalidMetadata, key: &str) {
    let text = error.to_string();
    // In its line, whatever the key has in it.
    assert!(!text.contains(char::is_control), "{text:?}");
    let is_plain = key.chars().all(|c| c.is_ascii() && !c.is_ascii_control()) && key.len() < 1_000;
    assert!(!is_plain || text.contains(&format!("`{key}`")), "{text}");
}

fn agree(metadata: &Metadata, model: &Model, asked: &str) {
    let mut keys: Vec<_> = metadata.keys().collect();
    keys.sort_unstable();
    assert!(keys.iter().eq(model.keys()), "{keys:?}");
    assert_eq!(metadata.len(), model.values().map(Vec::len).sum::<usize>());
    for (key, values) in model {
        assert!(metadata.contains_key(key), "{key}");
        assert_eq!(all_of(metadata, key), *values, "{key}");
    }
    // However a key is written when it is asked for.
    let expected = model.get(&asked.to_ascii_lowercase()).cloned().unwrap_or_default();
    assert_eq!(all_of(metadata, asked), expected, "{asked}");
}

/// All values of a key, whichever kind they are; never both kinds.
fn all_of(metadata: &Metadata, key: &str) -> Vec<Vec<u8>> {
    let texts = metadata.get_all(key).map(|text| text.as_bytes().to_vec());
    let binaries = metadata.get_all_bin(key).map(|bytes| bytes.to_vec());
    let texts: Vec<_> = texts.collect();
    let binaries: Vec<_> = binaries.collect();
    assert!(texts.is_empty() || binaries.is_empty(), "{key}");
    [texts, binaries].concat()
}
