//! The documents for contributors: the functions, folders and jobs that they name exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How many steps a walk has: enough to show the way, few enough to be read.
const STEPS: std::ops::RangeInclusive<usize> = 15..=25;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The files below a directory with this extension, as paths from the root.
fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join(directory)).unwrap() {
        let entry = entry.unwrap();
        let path = directory.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found
}

/// A step of a walk: `12. ` and, in backticks, a file and a function in it.
fn step(line: &str) -> Option<(usize, &str, &str)> {
    let (number, rest) = line.split_once(". `")?;
    let (file, rest) = rest.split_once(": ")?;
    let (function, _) = rest.split_once('`')?;
    Some((number.parse().ok()?, file, function))
}

/// Whether a source has a function of this name.
fn has_function(source: &str, name: &str) -> bool {
    let begin = format!("fn {name}");
    source.match_indices(&begin).any(|(at, _)| source[at + begin.len()..].starts_with(['(', '<']))
}

#[test]
fn each_function_of_the_walks_exists() {
    let document = text("docs/design/README.md");
    let walks: Vec<&str> = document.split("\n## Walk ").skip(1).collect();
    assert_eq!(walks.len(), 3);
    for walk in walks {
        let numbered = walk
            .lines()
            .filter(|line| line.starts_with(|first: char| first.is_ascii_digit()))
            .skip(1);
        let mut steps = 0;
        for line in numbered {
            let (number, file, function) =
                step(line).unwrap_or_else(|| panic!("not a step: {line}"));
            steps += 1;
            assert_eq!(number, steps, "{line}");
            assert!(has_function(&text(file), function), "{file} has no function {function}");
        }
        assert!(STEPS.contains(&steps), "{steps} steps");
    }
}

/// The folders that a line of the map names: `a{,/b}` and `a/{b,c}` name two.
fn named(line: &str) -> Vec<String> {
    let folders = line.split(' ').next().unwrap();
    match folders.split_once('{') {
        Some((before, rest)) => {
            let rest = rest.trim_end_matches('}');
            rest.split(',').map(|folder| format!("{before}{folder}")).collect()
        }
        None => vec![folders.to_owned()],
    }
}

/// Whether a folder is one file with its tests.
fn is_one_file(folder: &Path) -> bool {
    fs::read_dir(root().join(folder)).unwrap().all(|entry| {
        let name = entry.unwrap().file_name();
        name == "mod.rs" || name == "tests.rs"
    })
}

#[test]
fn the_map_has_every_folder_of_the_sources_and_no_other() {
    let document = text("ARCHITECTURE.md");
    let (_, map) = document.split_once("## The map").unwrap();
    let map = map.split("```").nth(1).unwrap();
    let named: BTreeSet<PathBuf> =
        map.lines().filter(|line| !line.is_empty()).flat_map(named).map(PathBuf::from).collect();
    for folder in &named {
        assert!(
            root().join(folder).is_dir(),
            "the map has {}, which is no folder",
            folder.display()
        );
    }
    for tree in ["crates", "penctl", "src", "supervisor", "tests", "worker"] {
        for file in files(Path::new(tree), "rs") {
            let folder = file.parent().unwrap();
            assert!(
                named.contains(folder) || is_one_file(folder),
                "the map lacks {}",
                folder.display()
            );
        }
    }
}

/// The source files that a document names: words such as `relay/link.rs` and `link.rs`.
fn named_files(document: &str) -> impl Iterator<Item = &str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    document
        .split(move |c| !is_part(c))
        .map(|word| word.trim_end_matches('.'))
        .filter(|word| word.ends_with(".rs"))
        .map(|word| word.trim_start_matches("../"))
}

#[test]
fn each_source_file_that_the_design_names_exists() {
    /// Of rustls.
    const ELSEWHERE: [&str; 1] = ["src/server/hs.rs"];
    let sources: Vec<PathBuf> =
        ["crates", "examples", "fuzz", "penctl", "src", "supervisor", "tests", "worker"]
            .into_iter()
            .flat_map(|tree| files(Path::new(tree), "rs"))
            .collect();
    let mut documents = files(Path::new("docs/design"), "md");
    documents.push("ARCHITECTURE.md".into());
    for path in documents {
        let document = text(path.to_str().unwrap());
        for file in named_files(&document).filter(|file| !ELSEWHERE.contains(file)) {
            assert!(
                sources.iter().any(|source| source.ends_with(file)),
                "{} names {file}, which is no file",
                path.display()
            );
        }
    }
}

#[test]
fn contributing_has_every_job_of_ci() {
    let list = Command::new("bash").arg(root().join(".ci/run")).arg("--list").output().unwrap();
    assert!(list.status.success());
    let document = text("CONTRIBUTING.md");
    for job in String::from_utf8(list.stdout).unwrap().lines() {
        assert!(document.contains(&format!("`{job}`")), "CONTRIBUTING.md lacks the job {job}");
    }
}
