//! The `#[consumer]` attribute of `linecook-sdk`.

mod expand;

use proc_macro::TokenStream;

#[allow(missing_docs, reason = "documented where linecook-sdk exports it again: only there do the examples compile")]
#[proc_macro_attribute]
pub fn consumer(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand::consumer(arguments.into(), item.into()).into()
}
