//! Rules about one file.

use syn::{
    Attribute, ExprUnsafe, ImplItemFn, ItemFn, ItemImpl, ItemMod, Path, Signature, TraitItemFn,
    UseName, UsePath, UseRename,
    spanned::Spanned,
    visit::{self, Visit},
};

use super::Source;

const COLUMNS_MAX: usize = 100;
const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;

/// Files of the core crates that may hold `unsafe`, by how their paths begin.
const UNSAFE: &[&str] = &[
    "engine/src/layer_map/published/tests.rs",
    "engine/src/read/detached.rs",
    "engine/src/read/guard.rs",
    "engine/src/read/scratch.rs",
    "layers/src/memory/",
    "layers/src/prefetch.rs",
    "layers/src/storage/",
];

/// Crates that one file names, so that what is relied on is read in one place.
const NAMED_ONCE: &[(&str, &str)] = &[
    ("arc_swap", "engine/src/layer_map/published.rs"),
    ("bumpalo", "layers/src/memory/arena.rs"),
    ("memmap2", "layers/src/storage/mapping.rs"),
    ("slab", "engine/src/state/slots.rs"),
    ("zstd", "layers/src/compress.rs"),
];

/// Files of the core crates that may look at a clock: all time of the engine comes from there.
const CLOCKS: &[&str] = &["engine/src/options.rs"];

/// Files that may draw random numbers: the test kit, and the generator of recorded layer maps.
const RANDOM: &[&str] =
    &["engine/src/testing", "layers/src/testing", "engine/src/layer_map/index/recorded.rs"];

/// Files that may reach files of the system otherwise than through the storage trait.
const FILES: &[&str] = &[
    "engine/src/testing",
    "engine/src/layer_map/index/recorded.rs",
    "layers/src/storage/",
    "layers/src/storage.rs",
    "layers/src/testing",
];

/// The crates that the rules about unsafe code, clocks, random numbers and files are for.
fn is_core(path: &str) -> bool {
    ["layers/src/", "wal/src/", "engine/src/"].iter().any(|dir| path.starts_with(dir))
}

/// The violations of the rules in a file.
pub(crate) fn of_file(source: &Source) -> Vec<String> {
    let Source { path, text } = source;
    let mut found = Found { path, all: Vec::new(), in_tests: is_test_file(path) };
    let mut lines = 0;
    for (index, line) in text.lines().enumerate() {
        lines = index + 1;
        let columns = line.chars().count();
        // What is no comment is for rustfmt.
        if columns > COLUMNS_MAX && line.trim_start().starts_with("//") && !is_table(line) {
            found.add(lines, format!("{columns} columns"));
        }
    }
    if lines > FILE_LINES_MAX {
        found.add(lines, format!("a file of {lines} lines"));
    }
    match syn::parse_file(text) {
        Ok(file) => {
            found.attributes(&file.attrs);
            found.visit_file(&file);
        }
        Err(error) => found.add(error.span().start().line, format!("not read: {error}")),
    }
    found.all
}

/// A row of a table, which cannot be wrapped, or a line that is one word.
fn is_table(line: &str) -> bool {
    let words = line.trim_start().trim_start_matches(['/', '!']).trim();
    words.starts_with('|') || !words.contains(' ')
}

pub(crate) fn is_test_file(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let is_module = name == "tests.rs" || name == "malformed.rs" || name.starts_with("tests_of_");
    is_module || !path.contains("/src/")
}

struct Found<'s> {
    path: &'s str,
    all: Vec<String>,
    /// In a module that only tests compile.
    in_tests: bool,
}

impl Found<'_> {
    fn add(&mut self, line: usize, what: impl std::fmt::Display) {
        self.all.push(format!("{}:{line}: {what}", self.path));
    }

    fn is_listed(&self, files: &[&str]) -> bool {
        files.iter().any(|file| self.path.starts_with(file))
    }

    fn attributes(&mut self, attributes: &[Attribute]) {
        for attribute in attributes {
            let line = attribute.span().start().line;
            // Fuzz targets share modules with the tests of another package.
            if attribute.path().is_ident("path") && self.path.contains("/src/") {
                self.add(line, "#[path]: a module is where its name says");
            }
            let is_inner = matches!(attribute.style, syn::AttrStyle::Inner(_));
            if is_inner && self.path.contains("/src/") && self.excuses_dead_code(attribute) {
                self.add(line, "dead code is excused for a whole module");
            }
        }
    }

    fn excuses_dead_code(&self, attribute: &Attribute) -> bool {
        let names = ["expect", "allow", "cfg_attr"];
        let is_lint = names.iter().any(|name| attribute.path().is_ident(name));
        let syn::Meta::List(list) = &attribute.meta else { return false };
        is_lint && list.tokens.to_string().contains("dead_code")
    }

    fn function(&mut self, signature: &Signature, end: usize) {
        let start = signature.span().start().line;
        let lines = end - start + 1;
        // Tests are lists of cases as often as not.
        if lines > FUNCTION_LINES_MAX && !self.in_tests {
            self.add(start, format!("a function of {lines} lines"));
        }
        if let Some(token) = signature.unsafety {
            self.unsafe_code(token.span.start().line);
        }
    }

    fn unsafe_code(&mut self, line: usize) {
        if is_core(self.path) && !self.is_listed(UNSAFE) {
            self.add(line, "unsafe code in a file that is not listed for it");
        }
    }

    /// A name in a path, with the one in front of it.
    fn name(&mut self, before: Option<&str>, name: &syn::Ident) {
        let (line, text) = (name.span().start().line, name.to_string());
        if !is_core(self.path) {
            return;
        }
        for (of, file) in NAMED_ONCE {
            if text == *of && before.is_none() && self.path != *file {
                self.add(line, format!("{of} is named in one file, {file}"));
            }
        }
        if self.in_tests {
            return;
        }
        if ["Instant", "SystemTime"].contains(&&*text) && !self.is_listed(CLOCKS) {
            self.add(line, format!("a clock ({text}): time comes from the engine's options"));
        }
        if text == "fastrand" && before.is_none() && !self.is_listed(RANDOM) {
            self.add(line, "random numbers (fastrand) below the test kit");
        }
        if text == "fs" && before == Some("std") && !self.is_listed(FILES) {
            self.add(line, "std::fs: files are reached through the storage trait");
        }
    }

    fn use_tree(&mut self, tree: &syn::UseTree, before: Option<&str>) {
        match tree {
            syn::UseTree::Path(UsePath { ident, tree, .. }) => {
                self.name(before, ident);
                self.use_tree(tree, Some(&ident.to_string()));
            }
            syn::UseTree::Name(UseName { ident })
            | syn::UseTree::Rename(UseRename { ident, .. }) => {
                self.name(before, ident);
            }
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.use_tree(tree, before));
            }
            syn::UseTree::Glob(_) => {}
        }
    }
}

/// Whether only tests compile what has this attribute.
pub(crate) fn is_of_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else { return false };
        attribute.path().is_ident("cfg")
            && list
                .tokens
                .to_string()
                .split(|at: char| !at.is_alphanumeric())
                .any(|at| at == "test")
    })
}

impl<'ast> Visit<'ast> for Found<'_> {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        self.attributes(&item.attrs);
        let excuses = item.attrs.iter().any(|attribute| self.excuses_dead_code(attribute));
        if excuses && self.path.contains("/src/") {
            self.add(item.span().start().line, "dead code is excused for a whole module");
        }
        let was_in_tests = self.in_tests;
        self.in_tests |= is_of_tests(&item.attrs);
        visit::visit_item_mod(self, item);
        self.in_tests = was_in_tests;
    }

    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        self.function(&item.sig, item.block.span().end().line);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        self.function(&item.sig, item.block.span().end().line);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast TraitItemFn) {
        self.function(&item.sig, item.span().end().line);
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        if let Some(token) = item.unsafety {
            self.unsafe_code(token.span.start().line);
        }
        visit::visit_item_impl(self, item);
    }

    fn visit_expr_unsafe(&mut self, block: &'ast ExprUnsafe) {
        self.unsafe_code(block.unsafe_token.span.start().line);
        visit::visit_expr_unsafe(self, block);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !is_of_tests(&item.attrs) {
            self.use_tree(&item.tree, None);
        }
    }

    fn visit_path(&mut self, path: &'ast Path) {
        // A name alone may be a variable.
        if path.segments.len() > 1 || path.leading_colon.is_some() {
            let mut before: Option<String> = None;
            for segment in &path.segments {
                self.name(before.as_deref(), &segment.ident);
                before = Some(segment.ident.to_string());
            }
        }
        visit::visit_path(self, path);
    }
}
