//! What `#[consumer]` writes: the function as it was, a check of its types, and, in a component only, the export.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Error, FnArg, ItemFn, ReturnType, Type};

/// Expands the attribute. A mistake becomes a compile error beside the untouched function, so that it is the only one.
pub(crate) fn consumer(arguments: TokenStream, item: TokenStream) -> TokenStream {
    match export(&arguments, &item) {
        Ok(export) => quote! { #item #export },
        Err(error) => {
            let error = error.into_compile_error();
            quote! { #item #error }
        }
    }
}

fn export(arguments: &TokenStream, item: &TokenStream) -> Result<TokenStream, Error> {
    if !arguments.is_empty() {
        return Err(Error::new_spanned(arguments, "#[consumer] takes no arguments"));
    }
    let function: ItemFn =
        syn::parse2(item.clone()).map_err(|error| Error::new(error.span(), "#[consumer] stands before a function"))?;
    let signature = Signature::of(&function)?;

    let name = &function.sig.ident;
    let input = signature.input;
    let output = signature.output;
    let (assert_input, assert_output) = match signature.kind {
        Kind::Single => (quote! { assert_input }, quote! { assert_output }),
        Kind::Batch => (quote! { assert_batch_input }, quote! { assert_batch_output }),
    };
    // The checks carry the places of the types, so that a wrong type is underlined where it stands.
    let check_input = quote_spanned! { input.span() => ::linecook_sdk::__rt::#assert_input::<#input>(); };
    let check_output = quote_spanned! { output.span() => ::linecook_sdk::__rt::#assert_output::<#output>(); };
    let guest = match signature.kind {
        Kind::Single => quote! {
            impl ::linecook_sdk::__rt::Guest for Consumer {
                fn handle(
                    message: ::linecook_sdk::__rt::RawMessage,
                ) -> ::core::result::Result<(), ::linecook_sdk::__rt::RawFailure> {
                    ::linecook_sdk::__rt::call(#name, message)
                }
            }

            ::linecook_sdk::__rt::export!(Consumer with_types_in ::linecook_sdk::__rt::bindings::generated);
        },
        Kind::Batch => quote! {
            impl ::linecook_sdk::__rt::BatchGuest for Consumer {
                fn handle_batch(
                    messages: ::std::vec::Vec<::linecook_sdk::__rt::RawMessage>,
                ) -> ::std::vec::Vec<::linecook_sdk::__rt::RawAnswer> {
                    ::linecook_sdk::__rt::call_batch(#name, messages)
                }
            }

            ::linecook_sdk::__rt::export_batch!(Consumer with_types_in ::linecook_sdk::__rt::bindings::generated_batch);
        },
    };
    Ok(quote! {
        const _: () = {
            #check_input
            #check_output
            // In a native build that is no test, nobody else uses the function.
            let _ = #name;
        };

        #[cfg(target_family = "wasm")]
        const _: () = {
            struct Consumer;

            #guest
        };
    })
}

/// How many messages a call brings.
#[derive(Clone, Copy)]
enum Kind {
    Single,
    Batch,
}

/// The parts of a signature that the check of the types needs.
struct Signature<'a> {
    kind: Kind,
    input: &'a Type,
    output: &'a Type,
}

impl<'a> Signature<'a> {
    /// Says in plain words what the compiler would say about generated code.
    fn of(function: &'a ItemFn) -> Result<Signature<'a>, Error> {
        let sig = &function.sig;
        if let Some(word) = &sig.asyncness {
            return Err(Error::new_spanned(
                word,
                "a consumer is not async: its instance does one call at a time, and nothing else meanwhile",
            ));
        }
        if let Some(word) = &sig.unsafety {
            return Err(Error::new_spanned(word, "a consumer is a safe function"));
        }
        if let Some(abi) = &sig.abi {
            return Err(Error::new_spanned(abi, "a consumer is an ordinary Rust function, without `extern`"));
        }
        if !sig.generics.params.is_empty() {
            return Err(Error::new_spanned(&sig.generics, "a consumer has no generic parameters"));
        }
        let mut inputs = sig.inputs.iter();
        let (Some(input), None) = (inputs.next(), inputs.next()) else {
            return Err(Error::new(
                sig.paren_token.span.join(),
                "a consumer takes one argument: the `Message`, or `Vec<Message>`",
            ));
        };
        let input = match input {
            FnArg::Receiver(receiver) => {
                return Err(Error::new_spanned(receiver, "a consumer is a free function, not a method"));
            }
            FnArg::Typed(input) => &*input.ty,
        };
        let kind = match input {
            Type::Path(path) if path.path.segments.last().is_some_and(|segment| segment.ident == "Vec") => Kind::Batch,
            Type::Reference(_) => {
                return Err(Error::new_spanned(
                    input,
                    "a consumer takes the `Message` itself (or `Vec<Message>`), not a reference to it",
                ));
            }
            Type::ImplTrait(_) => {
                return Err(Error::new_spanned(input, "a consumer takes the `Message` itself, not `impl …`"));
            }
            _ => Kind::Single,
        };
        match (&sig.output, kind) {
            (ReturnType::Default, Kind::Single) => {
                Err(Error::new_spanned(&sig.ident, "a consumer returns an `Outcome`: write `-> Outcome`"))
            }
            (ReturnType::Default, Kind::Batch) => Err(Error::new_spanned(
                &sig.ident,
                "a consumer of batches answers for each message: write `-> Vec<Outcome>`",
            )),
            (ReturnType::Type(_, output), _) if matches!(**output, Type::ImplTrait(_)) => {
                Err(Error::new_spanned(output, "a consumer returns an `Outcome` itself, not `impl …`"))
            }
            (ReturnType::Type(_, output), _) => Ok(Signature { kind, input, output }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sentence of the compile error, or "" if there is none.
    fn error(arguments: TokenStream, item: TokenStream) -> String {
        export(&arguments, &item).err().map(|error| error.to_string()).unwrap_or_default()
    }

    fn refused(item: TokenStream) -> String {
        let error = error(quote! {}, item.clone());
        assert!(!error.is_empty(), "must be refused: {item}");
        let expanded = consumer(quote! {}, item.clone()).to_string();
        assert!(expanded.starts_with(&item.to_string()), "the function must stay: {expanded}");
        error
    }

    #[test]
    fn every_spelling_of_the_types_is_taken() {
        for item in [
            quote! { fn f(message: Message) -> Outcome { Ok(()) } },
            quote! { pub(crate) fn f(mut message: linecook_sdk::Message) -> linecook_sdk::Outcome { Ok(()) } },
            quote! { fn f(Message { body, .. }: Message) -> Result<(), Failure> { Ok(()) } },
            quote! { fn f(messages: Vec<Message>) -> Vec<Outcome> { Vec::new() } },
            quote! { fn f(messages: std::vec::Vec<Message>) -> Outcome { Ok(()) } },
        ] {
            assert_eq!(error(quote! {}, item.clone()), "", "{item}");
            let expanded = consumer(quote! {}, item.clone()).to_string();
            assert!(expanded.starts_with(&item.to_string()), "the function must stay as it was: {expanded}");
            assert!(expanded.contains("cfg (target_family = \"wasm\")"), "{expanded}");
        }
    }

    #[test]
    fn a_wrong_signature_is_refused_with_a_plain_sentence() {
        let cases = [
            (quote! { struct S; }, "stands before a function"),
            (quote! { async fn f(m: Message) -> Outcome { Ok(()) } }, "not async"),
            (quote! { unsafe fn f(m: Message) -> Outcome { Ok(()) } }, "safe function"),
            (quote! { extern "C" fn f(m: Message) -> Outcome { Ok(()) } }, "without `extern`"),
            (quote! { fn f<T>(m: Message) -> Outcome { Ok(()) } }, "no generic parameters"),
            (quote! { fn f() -> Outcome { Ok(()) } }, "one argument"),
            (quote! { fn f(m: Message, n: u8) -> Outcome { Ok(()) } }, "one argument"),
            (quote! { fn f(&self) -> Outcome { Ok(()) } }, "free function"),
            (quote! { fn f(m: &Message) -> Outcome { Ok(()) } }, "not a reference"),
            (quote! { fn f(m: &[Message]) -> Outcome { Ok(()) } }, "not a reference"),
            (quote! { fn f(m: Message) {} }, "write `-> Outcome`"),
            (quote! { fn f(m: impl Into<Message>) -> Outcome { Ok(()) } }, "not `impl …`"),
            (quote! { fn f(m: Message) -> impl Into<Outcome> { Ok(()) } }, "returns an `Outcome` itself"),
            (quote! { fn f(m: Vec<Message>) {} }, "write `-> Vec<Outcome>`"),
        ];
        for (item, sentence) in cases {
            let error = refused(item);
            assert!(error.contains(sentence), "{error:?} should say {sentence:?}");
        }
    }

    #[test]
    fn arguments_are_refused() {
        let item = quote! { fn f(message: Message) -> Outcome { Ok(()) } };
        assert_eq!(error(quote! { queue = "a" }, item), "#[consumer] takes no arguments");
    }
}
