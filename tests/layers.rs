//! House rules that the compiler does not know: imports between layers run one way, some names
//! have one place, and every claimed rule has its test.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each layer, what it may import of the others, and what it may not name.
const LAYERS: [(&str, &[&str], &[&str]); 7] = [
    ("types", &[], &["tokio", "ractor", "h2::", "arc_swap"]),
    ("observe", &["types"], &["tokio", "ractor", "h2::", "arc_swap"]),
    (
        "policy",
        &["types", "observe"],
        &["tokio", "ractor", "h2::", "arc_swap", "TcpStream", "Instant::now", "SystemTime::now"],
    ),
    ("transport", &["types", "observe"], &["ractor", "arc_swap"]),
    ("call", &["types", "observe", "policy", "transport"], &["ractor", "h2::"]),
    ("actors", &["types", "observe", "policy", "transport", "call"], &["h2::"]),
    ("api", &["types", "observe", "policy", "transport", "call", "actors"], &["h2::", "ractor::"]),
];

#[test]
fn imports_between_layers_run_one_way() {
    let mut faults = Vec::new();
    for (layer, allowed, banned) in LAYERS {
        for file in sources(&root().join("src").join(layer)) {
            let text = fs::read_to_string(&file).expect("a source file can be read");
            for (line, fault) in check(layer, allowed, banned, &text) {
                faults.push(format!("{}:{line}: {fault}", file.display()));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn the_engine_stays_in_its_adapter_and_the_actors_in_theirs() {
    let homes = [("h2::", "transport/http2"), ("ractor::", "actors"), ("backoff::Exp", "api")];
    for file in sources(&root().join("src")) {
        let text = fs::read_to_string(&file).expect("a source file can be read");
        for (name, home) in homes {
            let at_home = file.to_string_lossy().contains(home);
            let named = code_of(&text).any(|(_, code)| names(code, name));
            assert!(at_home || !named, "{}: `{name}` is named outside {home}", file.display());
        }
    }
}

/// The files that `model` compiles with what loom watches.
const MODELLED: [&str; 5] = [
    "call/activity.rs",
    "call/slot.rs",
    "call/snapshot.rs",
    "call/waiters.rs",
    "transport/http2/members.rs",
];

#[test]
fn what_is_model_checked_takes_its_atomics_and_locks_from_sync_alone() {
    for file in MODELLED {
        let name = Path::new(file).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = fs::read_to_string(root().join("src").join(file)).expect("it can be read");
        for (line, code) in code_of(&text) {
            let mut std_parts = code.split("std::sync::").skip(1).flat_map(|parts| {
                parts.split(|c: char| !c.is_alphanumeric()).filter(|part| !part.is_empty())
            });
            let is_foreign = ["tokio", "arc_swap"].iter().any(|it| names(code, it))
                || std_parts.any(|part| !["Arc", "PoisonError"].contains(&part));
            assert!(!is_foreign, "{file}:{line}: take this from `crate::sync`: {code}");
        }
        let included = ["call.rs", "transport.rs"].iter().any(|by| {
            let by = fs::read_to_string(root().join("model/src").join(by)).expect("it can be read");
            by.contains(&format!("src/{file}"))
        });
        assert!(included, "{name} is not compiled by the package in `model`");
    }
}

#[test]
fn machines_answer_every_event_by_name() {
    let machines =
        ["channel", "connection", "health", "hedging", "idle", "resolution", "scaling", "token"];
    for machine in machines {
        let file = root().join("src/policy").join(machine).join("mod.rs");
        let text = fs::read_to_string(&file).expect("a machine has a file");
        for (line, code) in code_of(&text) {
            let catch_all = code.trim_start().starts_with("_ =>") || code.contains("(_, _) =>");
            assert!(!catch_all, "{}:{line}: list the ignored pairs by name", file.display());
        }
    }
}

#[test]
fn an_actors_file_begins_with_its_messages() {
    for actor in ["client_conn", "resolver", "balancer", "addr_conn", "supervisor"] {
        let file = root().join("src/actors").join(actor).with_extension("rs");
        let text = fs::read_to_string(&file).expect("an actor has a file");
        let first = code_of(&text)
            .map(|(_, code)| code)
            .find(|code| ["enum ", "struct ", "fn ", "impl "].iter().any(|it| code.contains(it)));
        assert_eq!(first, Some("pub(crate) enum Msg {"), "{}", file.display());
    }
}

#[test]
fn the_table_of_rules_names_the_tests_that_carry_their_tags() {
    let mut tagged = BTreeSet::new();
    for folder in ["src", "tests"] {
        for file in all_files(&root().join(folder)) {
            let text = fs::read_to_string(&file).expect("a source file can be read");
            let path = file.strip_prefix(root()).expect("the file is below the root");
            for (rule, test) in tags_of(&text) {
                tagged.insert((rule.to_owned(), format!("{}::{test}", path.display())));
            }
        }
    }
    let table = fs::read_to_string(root().join("docs/SPEC.md")).expect("the table can be read");
    let listed: BTreeSet<_> = rows_of(&table).collect();
    assert!(!tagged.is_empty());
    let missing: Vec<_> = tagged.difference(&listed).collect();
    let stale: Vec<_> = listed.difference(&tagged).collect();
    assert!(missing.is_empty(), "docs/SPEC.md does not list {missing:#?}");
    assert!(stale.is_empty(), "docs/SPEC.md lists tests that do not carry the tag: {stale:#?}");
}

#[test]
fn tags_and_rows_are_read_as_pairs_of_a_rule_and_a_test() {
    let text = [
        "// spec: A1/a",
        "// spec: A2/b",
        "#[test]",
        "fn one() {}",
        "    // spec: A1/a",
        "    #[tokio::test(start_paused = true)]",
        "    async fn two() {}",
        "fn three() {}",
        "// spec: A3/dangling",
    ]
    .join("\n");
    let found: Vec<_> = tags_of(&text).collect();
    assert_eq!(
        found,
        [("A1/a", "one"), ("A2/b", "one"), ("A1/a", "two"), ("A3/dangling", "(no test)")]
    );
    let table = "| Rule | What it says | Tests |\n|---|---|---|\n\
                 | A1/a | Says `x` of y | `src/a.rs::one`, `tests/b.rs::two` |\n";
    let rows: Vec<_> = rows_of(table).collect();
    let row = |test: &str| ("A1/a".to_owned(), test.to_owned());
    assert_eq!(rows, [row("src/a.rs::one"), row("tests/b.rs::two")]);
}

#[test]
fn the_check_finds_what_it_is_for() {
    let (_, allowed, banned) = LAYERS[2];
    let planted = "use crate::transport::dial;\nlet now = std::time::Instant::now();\n";
    let found: Vec<_> = check("policy", allowed, banned, planted).map(|(line, _)| line).collect();
    assert_eq!(found, [1, 2]);
    let sound = "use crate::types::Status;\n// not tokio\nlet tokio_like = 1;\n";
    assert_eq!(check("policy", allowed, banned, sound).count(), 0);
    let tests = "#[cfg(test)]\nmod tests {\n    use crate::transport::dial;\n}\n";
    assert_eq!(check("policy", allowed, banned, tests).count(), 0);
}

/// Each rule that a tag in `source` names, with the function that the tag stands above.
fn tags_of(source: &str) -> impl Iterator<Item = (&str, &str)> {
    source.lines().enumerate().filter_map(|(nth, line)| {
        let rule = line.trim().strip_prefix("// spec: ")?;
        // Only other tags, comments and attributes may stand in between.
        let below = source.lines().skip(nth + 1).map(str::trim);
        let item = below.into_iter().find(|it| !it.starts_with("//") && !it.starts_with("#["));
        let name = item.and_then(|it| it.strip_prefix("async ").unwrap_or(it).strip_prefix("fn "));
        let test = name.and_then(|it| it.split('(').next()).unwrap_or("(no test)");
        Some((rule, test))
    })
}

/// Each rule of the table with each test that its row lists.
fn rows_of(table: &str) -> impl Iterator<Item = (String, String)> {
    let rows = table.lines().filter_map(|line| {
        let rule = line.strip_prefix("| ")?.split(" |").next().filter(|it| it.contains('/'))?;
        let tests = line.trim_end().strip_suffix(" |")?.rsplit(" | ").next()?;
        Some((rule, tests))
    });
    rows.flat_map(|(rule, tests)| {
        tests.split(", ").map(move |test| (rule.to_owned(), test.trim_matches('`').to_owned()))
    })
}

/// The lines of `text` that break the rules of `layer`, and what to do about each.
fn check(
    layer: &str,
    allowed: &[&str],
    banned: &[&str],
    text: &str,
) -> impl Iterator<Item = (usize, String)> {
    code_of(text).flat_map(move |(line, code)| {
        let imports = code.split("crate::").skip(1).filter_map(move |path| {
            let other = path.split(|c: char| !c.is_alphanumeric() && c != '_').next()?;
            let is_layer = LAYERS.iter().any(|(name, ..)| *name == other);
            let fits = other == layer || allowed.contains(&other);
            (is_layer && !fits).then(|| {
                format!(
                    "`{layer}` may not import `{other}`: move it down, or pass it in from above"
                )
            })
        });
        let named = banned.iter().filter(move |name| names(code, name)).map(move |name| {
            format!("`{layer}` may not name `{name}`: leave that to the layer it belongs to")
        });
        imports.chain(named).map(move |fault| (line, fault))
    })
}

/// Whether `code` names `name` as a path and not as a part of a longer word.
fn names(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let starts = !code[..at].ends_with(is_word);
        let ends = name.ends_with("::") || !code[at + name.len()..].starts_with(is_word);
        starts && ends
    })
}

/// The lines of code above the tests, with their numbers; comments are left out.
fn code_of(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_comment = |line: &str| line.trim_start().starts_with("//");
    text.lines()
        .enumerate()
        .take_while(|(_, line)| line.trim() != "mod tests {")
        .filter(move |(_, line)| !is_comment(line))
        .map(|(nth, line)| (nth + 1, line))
}

/// The source files under `folder`, those of tests left out.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a layer has a folder") {
        let path = entry.expect("a folder can be read").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name == "tests" || name == "tests.rs" || name == "testing.rs" {
            continue;
        }
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|it| it == "rs") {
            files.push(path);
        }
    }
    assert!(!files.is_empty(), "{} has sources", folder.display());
    files
}

/// Every file under `folder`, tests included.
fn all_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the folder can be read");
    let paths = entries.map(|entry| entry.expect("the folder can be read").path());
    paths.flat_map(|path| if path.is_dir() { all_files(&path) } else { vec![path] }).collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
