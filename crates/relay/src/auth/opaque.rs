//! OpaqueString (RFC 8265 section 4.2): the one form in which names, realms and passwords are
//! compared and hashed.

use std::borrow::Cow;

use precis_profiles::OpaqueString;
use precis_profiles::precis_core::profile::PrecisFastInvocation;

/// Applies the OpaqueString profile to bytes that ought to be UTF-8.
///
/// `None` when they are not, when a character is disallowed, or when nothing is left.
/// Printable ASCII is returned as it is, without allocation.
pub fn opaque_string(text: &[u8]) -> Option<Cow<'_, str>> {
    let text = core::str::from_utf8(text).ok()?;
    if is_prepared_ascii(text) {
        return Some(Cow::Borrowed(text));
    }
    let mut prepared = OpaqueString::enforce(text).ok()?;
    for _ in 0..REPETITIONS {
        let again = OpaqueString::enforce(&*prepared).ok()?;
        if again == prepared {
            return Some(prepared);
        }
        prepared = Cow::Owned(again.into_owned());
    }
    None
}

/// The output of a profile need not be a valid input. RFC 8264 section 7 has the rules applied
/// again until nothing changes, three times at most, and the string rejected if that is not enough.
const REPETITIONS: usize = 3;

/// U+0020 to U+007E are in the FreeformClass, none of them is a non-ASCII space, and ASCII is in
/// Normalization Form C: the profile returns such a string as it is, unless it is empty.
fn is_prepared_ascii(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, 0x20..=0x7E))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn opaque(text: &str) -> Option<String> {
        opaque_string(text.as_bytes()).map(Cow::into_owned)
    }

    #[test]
    fn the_ascii_short_cut_is_the_profile_for_every_ascii_character() {
        for byte in 0..=0x7Fu8 {
            let text = char::from(byte).to_string();
            assert_eq!(opaque(&text), OpaqueString::enforce(&*text).ok().map(Cow::into_owned));
        }
        assert_eq!(opaque(""), None);
    }

    proptest! {
        #[test]
        fn the_ascii_short_cut_is_the_profile(text in "[\\x00-\\x7F]{0,40}") {
            let by_profile = OpaqueString::enforce(&*text).ok().map(Cow::into_owned);
            prop_assert_eq!(opaque(&text), by_profile);
        }

        #[test]
        fn a_prepared_string_stays_as_it_is(text in "\\PC{0,20}") {
            if let Some(once) = opaque(&text) {
                prop_assert_eq!(opaque(&once), Some(once.clone()));
            }
        }
    }

    #[test]
    fn non_ascii_spaces_become_space() {
        //= rfc8265#section-4.2.2
        //= type=test
        //# Additional Mapping Rule: Any instances of non-ASCII space MUST be
        //# mapped to SPACE (U+0020);
        assert_eq!(opaque("a\u{3000}b\u{00A0}c").as_deref(), Some("a b c"));
    }

    #[test]
    fn the_result_is_in_normalization_form_c() {
        //= rfc8265#section-4.2.2
        //= type=test
        //# Normalization Rule: Unicode Normalization Form C (NFC) MUST be
        //# applied to all strings.
        assert_eq!(opaque("e\u{0301}").as_deref(), Some("é"));
    }

    #[test]
    fn width_and_case_are_kept() {
        //= rfc8265#section-4.2.2
        //= type=test
        //# Width Mapping Rule: Fullwidth and halfwidth code points MUST NOT
        //# be mapped to their decomposition mappings (see Unicode Standard
        //# Annex #11 [UAX11]).
        assert_eq!(opaque("Ａb").as_deref(), Some("Ａb"));
    }

    #[test]
    fn what_becomes_disallowed_is_refused() {
        // U+0387 is allowed, its normal form U+00B7 only between two letters l.
        assert_eq!(opaque("\u{0387}"), None);
        assert_eq!(opaque("l\u{0387}l").as_deref(), Some("l\u{00B7}l"));
    }

    #[test]
    fn what_is_not_text_is_refused() {
        assert_eq!(opaque_string(b"\xFF\xFE"), None, "not UTF-8");
        assert_eq!(opaque("line\nfeed"), None, "a control character");
        assert_eq!(opaque("soft\u{00AD}hyphen"), None, "an ignorable character");
    }
}
