//! Which rooms of a crate import from which.

use std::collections::{BTreeMap, BTreeSet};

use syn::{
    Attribute, ItemMod, ItemUse, Path, UseTree,
    spanned::Spanned,
    visit::{self, Visit},
};

use super::{
    House, Source,
    rules::{is_of_tests, is_test_file},
};

/// A file's import of something below the root of its crate.
struct Import {
    line: usize,
    /// From the crate's root.
    path: Vec<String>,
}

/// Imports that run up, and files in no room that import each other.
pub(crate) fn violations(of: &House, sources: &[Source]) -> Vec<String> {
    let prefix = format!("{}/", of.dir);
    let files: BTreeMap<Vec<String>, &Source> = sources
        .iter()
        .filter(|source| !is_test_file(&source.path))
        .filter_map(|source| Some((module(source.path.strip_prefix(&prefix)?), source)))
        .collect();
    let root = files.get(&Vec::new());
    let exported = root.map_or_else(BTreeMap::new, |root| exports(&root.text));
    let mut found = Vec::new();
    // Between files in no room, by the first line that says so.
    let mut arrows: BTreeMap<(String, String), (String, usize)> = BTreeMap::new();
    for (module, source) in &files {
        let Some(inside) = below(of, module) else { continue };
        for Import { line, path } in imports(module, &source.text) {
            let path = match exported.get(&path[0]) {
                Some(defined) if path.len() == 1 => defined.clone(),
                _ => path,
            };
            let Some(path) = below(of, &path) else { continue };
            let (from, to) = (&inside[0], &path[0]);
            // What is no module is what the root takes from another crate.
            let is_module =
                files.keys().filter_map(|module| below(of, module)).any(|of| of[0] == *to);
            if from == to || !is_module {
                continue;
            }
            let rank = |name: &String| of.rooms.iter().position(|room| room == name);
            match (rank(from), rank(to)) {
                (Some(from), Some(to)) if to > from => {}
                (_, None) if rank(from).is_some() => {}
                (None, None) => {
                    let at = (source.path.clone(), line);
                    arrows.entry((from.clone(), to.clone())).or_insert(at);
                }
                _ => found.push(format!(
                    "{}:{line}: {from} imports from {to}, which is above it",
                    source.path
                )),
            }
        }
    }
    for ((from, to), (path, line)) in &arrows {
        if from < to && reaches(&arrows, to, from) {
            found.push(format!("{path}:{line}: {from} imports from {to}, which imports from it"));
        }
    }
    found
}

/// The part of a module path inside a house; none if it is not inside.
fn below<'m>(of: &House, module: &'m [String]) -> Option<&'m [String]> {
    let is_inside = module.iter().zip(of.module).all(|(at, of)| at == of);
    module.get(of.module.len()..).filter(|inside| is_inside && !inside.is_empty())
}

fn reaches(arrows: &BTreeMap<(String, String), (String, usize)>, from: &str, to: &str) -> bool {
    let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(at) = next.pop() {
        if at == to {
            return true;
        }
        if seen.insert(at) {
            next.extend(arrows.keys().filter(|arrow| arrow.0 == at).map(|arrow| &*arrow.1));
        }
    }
    false
}

/// The module of a file, from the crate's root; empty for the root.
fn module(file: &str) -> Vec<String> {
    match file.trim_end_matches(".rs").trim_end_matches("/mod") {
        "lib" => Vec::new(),
        file => file.split('/').map(str::to_owned).collect(),
    }
}

/// The names that the root exports, and where in the crate they are defined.
fn exports(root: &str) -> BTreeMap<String, Vec<String>> {
    let Ok(file) = syn::parse_file(root) else { return BTreeMap::new() };
    let mut all = Vec::new();
    for item in &file.items {
        if let syn::Item::Use(item) = item {
            flatten(&item.tree, &mut Vec::new(), &mut all);
        }
    }
    let own = |mut path: Vec<String>| {
        if ["self", "crate"].contains(&&*path[0]) {
            path.remove(0);
        }
        Some((path.last()?.clone(), path))
    };
    all.into_iter().filter_map(own).filter(|(_, path)| path.len() > 1).collect()
}

/// The paths of a `use`.
fn flatten(tree: &UseTree, before: &mut Vec<String>, into: &mut Vec<Vec<String>>) {
    match tree {
        UseTree::Path(path) => {
            before.push(path.ident.to_string());
            flatten(&path.tree, before, into);
            before.pop();
        }
        UseTree::Name(name) => into.push([&**before, &[name.ident.to_string()]].concat()),
        UseTree::Rename(name) => into.push([&**before, &[name.ident.to_string()]].concat()),
        UseTree::Glob(_) => into.push(before.clone()),
        UseTree::Group(group) => {
            group.items.iter().for_each(|tree| flatten(tree, before, into));
        }
    }
}

/// What a file imports or names by a path from the crate's root; not what its tests do.
fn imports(module: &[String], text: &str) -> Vec<Import> {
    let mut found = Found { module, all: Vec::new() };
    // The rules about a file say where it cannot be read.
    if let Ok(file) = syn::parse_file(text) {
        found.visit_file(&file);
    }
    found.all
}

struct Found<'s> {
    module: &'s [String],
    all: Vec<Import>,
}

impl Found<'_> {
    fn add(&mut self, line: usize, mut path: Vec<String>) {
        // Where `self` is; `super` goes up from there.
        let mut base = self.module.to_vec();
        let is_crate = path.first().is_some_and(|first| first == "crate");
        if is_crate {
            base.clear();
            path.remove(0);
        }
        while path.first().is_some_and(|first| first == "super" || first == "self") {
            if path.remove(0) == "super" {
                base.pop();
            }
        }
        base.extend(path);
        if !base.is_empty() {
            self.all.push(Import { line, path: base });
        }
    }
}

fn is_own(path: &[String]) -> bool {
    path.first().is_some_and(|first| ["crate", "super", "self"].contains(&&**first))
}

/// Whether only tests or the documentation compile what has this attribute.
fn is_aside(attributes: &[Attribute]) -> bool {
    let is_doc = |attribute: &Attribute| match &attribute.meta {
        syn::Meta::List(list) => {
            attribute.path().is_ident("cfg") && list.tokens.to_string() == "doc"
        }
        _ => false,
    };
    is_of_tests(attributes) || attributes.iter().any(is_doc)
}

impl<'ast> Visit<'ast> for Found<'_> {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if !is_aside(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let mut paths = Vec::new();
        flatten(&item.tree, &mut Vec::new(), &mut paths);
        if !is_aside(&item.attrs) {
            let line = item.span().start().line;
            paths.into_iter().filter(|path| is_own(path)).for_each(|path| self.add(line, path));
        }
    }

    fn visit_path(&mut self, path: &'ast Path) {
        let names: Vec<String> =
            path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if names.len() > 1 && is_own(&names) {
            self.add(path.span().start().line, names);
        }
        visit::visit_path(self, path);
    }
}
