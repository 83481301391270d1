//! Valid timeline names.

use pagestrata_layers::manifest::edit::TIMELINE_NAME_LEN_MAX;

/// Whether a name is valid for a timeline: 1 to 255 bytes, without control characters and without
/// characters that change the direction of text, because names are printed.
///
/// ```
/// assert!(pagestrata::is_timeline_name("main"));
/// assert!(!pagestrata::is_timeline_name("a\nb"));
/// assert!(!pagestrata::is_timeline_name("a\u{202E}b"));
/// ```
#[must_use]
pub fn is_timeline_name(name: &str) -> bool {
    (1..=TIMELINE_NAME_LEN_MAX).contains(&name.len())
        && !name.chars().any(|c| c.is_control() || is_bidirectional_control(c))
}

/// Whether a character only changes the direction of the text around it (Unicode property
/// `Bidi_Control`).
///
/// ```
/// assert!(pagestrata::is_bidirectional_control('\u{2066}'));
/// assert!(!pagestrata::is_bidirectional_control('\u{5D0}'));
/// ```
#[must_use]
pub const fn is_bidirectional_control(c: char) -> bool {
    matches!(
        c,
        '\u{61C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}'
    )
}
