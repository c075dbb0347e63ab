//! The `#[consumer]` attribute of `linecook-sdk`.

mod expand;

use proc_macro::TokenStream;

/// Makes a function the consumer of this component. Its documentation is with `linecook_sdk::consumer`.
#[proc_macro_attribute]
pub fn consumer(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand::consumer(arguments.into(), item.into()).into()
}
