//! The seam for error-correcting data (DESIGN §4.9): nothing is computed here yet, and no store says that it has any.
//!
//! When it comes it works on the finished bytes of a pack, after the codec, so that it needs no key and can repair what
//! it cannot read: `Work::publish` hands the sealed bytes to it beside the backend, scrub asks it before it reports.
//! Promise until then: `config` refuses nothing and promises nothing; feature `parity` is compatible, so that a reader
//! without it reads such a store. Knows nothing of blobs.

/// The feature name that a store with parity lists in its config.
pub const FEATURE: &str = "parity";
