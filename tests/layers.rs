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

/// Codes that only a server may give, or the application.
const RESERVED: [&str; 7] = [
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "DATA_LOSS",
];

/// Where they may be named: where they are defined, and in a service for the servers of others.
const MAY_NAME_THEM: [&str; 2] = ["src/types/status.rs", "src/observe/channelz/service.rs"];

// spec: grpc/library-codes
#[test]
fn the_library_makes_none_of_the_codes_that_are_for_servers() {
    for file in sources(&root().join("src")) {
        let text = fs::read_to_string(&file).expect("a source file can be read");
        if !MAY_NAME_THEM.iter().any(|home| file.ends_with(home)) {
            let found = reserved_in(&text);
            assert!(found.is_empty(), "{}: only servers give these: {found:?}", file.display());
        }
    }
    let planted = "fn f() -> Status {\n    // Code::ABORTED\n    Status::data_loss(\"x\")\n}\n\
                   const C: Code = Code::NOT_FOUND;\nuse Code::*;\n\
                   let n = Code::from_number(9);\n\
                   mod tests {\n    const C: Code = Code::ABORTED;\n}\n";
    let lines: Vec<_> = reserved_in(planted).into_iter().map(|(line, _)| line).collect();
    assert_eq!(lines, [3, 5, 6, 7]);
    let sound = "Status::internal(\"NOT_FOUND\"); Code::from_number(number); ErrorKind::NotFound";
    assert_eq!(reserved_in(sound), []);
}

/// The lines of code that can make one of the reserved codes, above the tests.
fn reserved_in(text: &str) -> Vec<(usize, &str)> {
    let names = RESERVED.map(|code| format!("Code::{code}"));
    let constructors = RESERVED.map(|code| format!("Status::{}", code.to_lowercase()));
    let found = code_of(text).filter(|(_, code)| {
        let by_number = code.split("Code::from_number(").skip(1);
        let mut by_number = by_number.filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        names.iter().chain(&constructors).any(|name| crate::names(code, name))
            || code.contains("Code::*")
            || by_number.next().is_some()
    });
    found.collect()
}

#[test]
fn every_status_that_the_library_makes_has_a_text() {
    let (mut count, mut bare) = (0, Vec::new());
    for file in sources(&root().join("src")) {
        let text = fs::read_to_string(&file).expect("a source file can be read");
        if file.ends_with("src/types/status.rs") {
            // It passes on what it is given.
            continue;
        }
        for (line, argument) in texts_of_statuses(&text) {
            count += 1;
            let is_listed =
                |(home, known): &(&str, &str)| file.ends_with(home) && *known == argument;
            let above: Vec<_> = text.lines().take(line).collect();
            let is_constant = text.contains(&format!("const {argument}: &str = \""));
            let says_something = is_constant || says_something(&argument, &above.join("\n"));
            if !says_something && !HAVE_TEXTS.iter().any(is_listed) {
                bare.push(format!("{}:{line}: `{argument}`", file.display()));
            }
        }
    }
    assert!(bare.is_empty(), "may be empty: begin it with words, or list it\n{}", bare.join("\n"));
    assert!(count > 40, "{count} statuses were found");
    let planted = "fn f(why: String) {\n    Status::unavailable(why);\n    Status::internal(\"\");\n    \
                   Status::new(\n        Code::INTERNAL,\n        format!(\"{why}\"),\n    );\n    \
                   let text = \"why\".to_owned();\n    Status::internal(text);\n}\n";
    let empty: Vec<_> = texts_of_statuses(planted)
        .into_iter()
        .filter(|(line, argument)| {
            let above: Vec<_> = planted.lines().take(*line).collect();
            !says_something(argument, &above.join("\n"))
        })
        .map(|(line, _)| line)
        .collect();
    assert_eq!(empty, [2, 3, 4]);
}

/// Texts that do not begin with words of their own, where each is known not to be empty.
const HAVE_TEXTS: [(&str, &str); 16] = [
    // The library's own errors, whose texts begin with words.
    ("types/foreign.rs", "self.to_string()"),
    ("actors/addr_conn.rs", "error.to_string()"),
    ("api/method.rs", "error.to_string()"),
    ("api/token.rs", "it.to_string()"),
    ("api/token.rs", "unread.error.to_string()"),
    ("call/status.rs", "error.to_string()"),
    ("call/health.rs", "format!(\"{peer}: {error}\")"),
    ("call/status.rs", "message"),
    ("call/status.rs", "format!(\"{peer}: {}\", trailers.message)"),
    // An error of a resolver, which stands for a text where it has none.
    ("actors/resolver.rs", "error.to_string()"),
    // Why a service config or an update is refused, likewise.
    ("actors/client_conn.rs", "reason.clone()"),
    ("policy/channel/mod.rs", "reason.clone()"),
    ("actors/resolver.rs", "reason"),
    // What is said of a subchannel, which is one of these.
    ("pick_first/pass.rs", "error.message()"),
    // Arguments that begin with words.
    ("api/token.rs", "text"),
    // A server's own words, which may be none: `sent_by` makes the status show whose they are.
    ("call/status.rs", "trailers.message"),
];

/// The text that each status in `source` is made with, as an expression, above the tests.
fn texts_of_statuses(source: &str) -> Vec<(usize, String)> {
    let code: Vec<_> = code_of(source).collect();
    let mut found = Vec::new();
    for (nth, (line, text)) in code.iter().enumerate() {
        for (at, _) in text.match_indices("Status::") {
            let call = &text[at + "Status::".len()..];
            let name: String =
                call.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let is_constructor = name == "new" || CONSTRUCTORS.contains(&name.as_str());
            if !is_constructor || !call[name.len()..].starts_with('(') {
                continue;
            }
            let rest = code[nth + 1..].iter().map(|(_, text)| text.trim());
            let all = std::iter::once(&call[name.len() + 1..]).chain(rest);
            let arguments = arguments(&all.collect::<Vec<_>>().join(" "));
            let text = arguments.get(usize::from(name == "new")).cloned().unwrap_or_default();
            found.push((*line, text));
        }
    }
    found
}

const CONSTRUCTORS: [&str; 9] = [
    "cancelled",
    "unknown",
    "deadline_exceeded",
    "permission_denied",
    "resource_exhausted",
    "unimplemented",
    "internal",
    "unavailable",
    "unauthenticated",
];

/// The arguments of a call, of whose text this is what follows the opening parenthesis.
fn arguments(text: &str) -> Vec<String> {
    let (mut all, mut depth, mut is_text, mut last) = (vec![String::new()], 0, false, ' ');
    for c in text.chars() {
        match c {
            '"' if last != '\\' => is_text = !is_text,
            '(' | '[' | '{' if !is_text => depth += 1,
            ')' | ']' | '}' if !is_text && depth == 0 => break,
            ')' | ']' | '}' if !is_text => depth -= 1,
            ',' if !is_text && depth == 0 => {
                all.push(String::new());
                continue;
            }
            _ => {}
        }
        last = c;
        all.last_mut().expect("there is one from the start").push(c);
    }
    all.into_iter().map(|argument| argument.trim().to_owned()).collect()
}

/// Whether an expression that gives a text has words of its own: in a literal, in a format, or
/// behind a name that has such a value in `source`, which ends there.
fn says_something(expression: &str, source: &str) -> bool {
    let literal = expression.trim_start_matches("format!(").trim_start();
    if let Some(literal) = literal.strip_prefix('"') {
        // What stands in braces is somebody else's.
        let mut depth = 0;
        return literal.split('"').next().is_some_and(|literal| {
            literal.chars().any(|c| {
                depth += i32::from(c == '{') - i32::from(c == '}');
                depth == 0 && c.is_alphabetic()
            })
        });
    }
    let is_name = expression.chars().all(|c| c.is_alphanumeric() || c == '_');
    let binding = format!("let {expression} = ");
    let nearest = source.rsplit_once(&binding).map(|(_, value)| value);
    is_name && nearest.is_some_and(|value| says_something(value, ""))
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
