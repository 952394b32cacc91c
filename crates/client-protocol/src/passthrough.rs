//! A message that keeps the bytes it came with.
//!
//! prost drops fields that it does not know. A function's definition goes from the deploying client through us to the
//! runner in the container, and both may know fields that we do not. `Passthrough` stores the encoded message as it
//! arrived and decodes our typed view of it on demand. A changed view is sent by *appending* fields: in the encoding
//! the last value of a singular field wins, and parts of a message field are merged. A list, or a field that is to be
//! zero, cannot be set so: its old values are taken out first (`replace`).

use std::marker::PhantomData;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, encoded_len_varint, skip_field,
};
use prost::{DecodeError, Message};

/// An encoded `M`. Comparing compares bytes.
#[derive(Clone)]
pub struct Passthrough<M> {
    raw: BytesMut,
    view: PhantomData<fn() -> M>,
}

impl<M: Message + Default> Passthrough<M> {
    pub fn from_bytes(raw: &[u8]) -> Self {
        Self { raw: BytesMut::from(raw), view: PhantomData }
    }

    pub fn from_message(message: &M) -> Self {
        Self::from_bytes(&message.encode_to_vec())
    }

    /// The bytes as they came, with what was appended.
    pub fn to_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(&self.raw)
    }

    /// Our view: the fields that the `.proto` files declare.
    ///
    /// # Errors
    /// When a declared field does not hold what its declaration says.
    pub fn view(&self) -> Result<M, DecodeError> {
        M::decode(self.raw.as_ref())
    }

    /// Sets singular fields: every field that `overrides` has set wins over the stored one. Repeated fields would be
    /// added to, so leave them empty.
    pub fn append(&mut self, overrides: &M) {
        self.raw.extend_from_slice(&overrides.encode_to_vec());
    }

    /// Takes all values of the fields `numbers` out, and puts in what `with` holds. All other fields keep their bytes.
    ///
    /// # Errors
    /// When the bytes are no message; nothing is changed then.
    pub fn replace(&mut self, numbers: &[u32], with: &M) -> Result<(), DecodeError> {
        let mut kept = BytesMut::with_capacity(self.raw.len());
        let mut rest: &[u8] = &self.raw;
        while !rest.is_empty() {
            let field = rest;
            let (number, wire_type) = decode_key(&mut rest)?;
            skip_field(wire_type, number, &mut rest, DecodeContext::default())?;
            if !numbers.contains(&number) {
                kept.extend_from_slice(&field[..field.len() - rest.len()]);
            }
        }
        self.raw = kept;
        self.append(with);
        Ok(())
    }
}

impl<M> Default for Passthrough<M> {
    fn default() -> Self {
        Self { raw: BytesMut::new(), view: PhantomData }
    }
}

impl<M> PartialEq for Passthrough<M> {
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw
    }
}

impl<M> std::fmt::Debug for Passthrough<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Passthrough({} bytes)", self.raw.len())
    }
}

impl<M> Message for Passthrough<M> {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        buf.put_slice(&self.raw);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        _: DecodeContext,
    ) -> Result<(), DecodeError> {
        encode_key(tag, wire_type, &mut self.raw);
        let length = match wire_type {
            WireType::Varint => {
                encode_varint(decode_varint(buf)?, &mut self.raw);
                return Ok(());
            }
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::LengthDelimited => {
                let length = decode_varint(buf)?;
                encode_varint(length, &mut self.raw);
                usize::try_from(length).map_err(|_| malformed("a field's length exceeds the address space"))?
            }
            WireType::StartGroup | WireType::EndGroup => return Err(malformed("groups are not supported")),
        };
        if buf.remaining() < length {
            return Err(malformed("a field ends after its message"));
        }
        self.raw.put(buf.take(length));
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        self.raw.len()
    }

    fn clear(&mut self) {
        self.raw.clear();
    }
}

/// prost makes its errors only while decoding: an over-long varint is the shortest way to one of our own.
fn malformed(_why: &'static str) -> DecodeError {
    debug_assert!(encoded_len_varint(u64::MAX) == 10);
    let mut broken: &[u8] = &[0xff; 11];
    match decode_varint(&mut broken) {
        Err(error) => error,
        Ok(_) => unreachable!("eleven continuation bytes are never a varint"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{Function, FunctionCreateRequest};

    /// Field 9999 is unknown to us: it must survive the way through a request.
    #[test]
    fn unknown_fields_of_a_definition_survive() {
        let mut raw = Function { module_name: "m".into(), timeout_secs: 7, ..Default::default() }.encode_to_vec();
        encode_key(9999, WireType::LengthDelimited, &mut raw);
        encode_varint(3, &mut raw);
        raw.extend_from_slice(b"new");
        let request = FunctionCreateRequest {
            app_id: "ap-1".into(),
            function: Some(Passthrough::from_bytes(&raw)),
            ..Default::default()
        };
        let decoded = FunctionCreateRequest::decode(request.encode_to_vec().as_slice()).unwrap();
        let function = decoded.function.unwrap();
        assert_eq!(function.to_bytes(), raw);
        assert_eq!(function.view().unwrap().timeout_secs, 7);
    }

    #[test]
    fn an_appended_field_wins() {
        let mut function =
            Passthrough::from_message(&Function { app_name: "old".into(), timeout_secs: 7, ..Default::default() });
        function.append(&Function { app_name: "new".into(), ..Default::default() });
        let view = function.view().unwrap();
        assert_eq!((view.app_name.as_str(), view.timeout_secs), ("new", 7));
    }

    #[test]
    fn a_truncated_field_is_an_error_not_a_panic() {
        let bytes = [0x0a, 0x20, b'x'];
        assert!(Passthrough::<Function>::decode(bytes.as_slice()).is_err());
    }

    /// One encoded field of any number and kind.
    fn any_field() -> impl Strategy<Value = (u32, Vec<u8>)> {
        let number = prop_oneof![Just(21u32), Just(10), 1u32..100, 1u32..500_000];
        let value = prop_oneof![
            any::<u64>().prop_map(|v| (WireType::Varint, v, Vec::new())),
            any::<u64>().prop_map(|v| (WireType::SixtyFourBit, v, Vec::new())),
            any::<u32>().prop_map(|v| (WireType::ThirtyTwoBit, u64::from(v), Vec::new())),
            proptest::collection::vec(any::<u8>(), 0..20).prop_map(|v| (WireType::LengthDelimited, 0, v)),
        ];
        (number, value).prop_map(|(number, (wire_type, value, bytes))| {
            let mut field = Vec::new();
            encode_key(number, wire_type, &mut field);
            match wire_type {
                WireType::Varint => encode_varint(value, &mut field),
                WireType::SixtyFourBit => field.extend_from_slice(&value.to_le_bytes()),
                WireType::ThirtyTwoBit => field.extend_from_slice(&(value as u32).to_le_bytes()),
                _ => {
                    encode_varint(bytes.len() as u64, &mut field);
                    field.extend_from_slice(&bytes);
                }
            }
            (number, field)
        })
    }

    proptest! {
        #[test]
        fn replacing_leaves_every_other_field_as_it_came(
            fields in proptest::collection::vec(any_field(), 0..20),
            numbers in proptest::collection::vec(prop_oneof![Just(21u32), 1u32..100], 0..4),
        ) {
            let raw: Vec<u8> = fields.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
            let with = Function { app_name: "new".into(), ..Default::default() };
            let mut function = Passthrough::<Function>::from_bytes(&raw);
            function.replace(&numbers, &with).unwrap();
            let kept = fields.into_iter().filter(|(number, _)| !numbers.contains(number)).flat_map(|(_, bytes)| bytes);
            let expected: Vec<u8> = kept.chain(with.encode_to_vec()).collect();
            prop_assert_eq!(function.to_bytes().to_vec(), expected);
        }

        #[test]
        fn replacing_in_any_bytes_fails_or_works_and_never_panics(raw in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut function = Passthrough::<Function>::from_bytes(&raw);
            if function.replace(&[1, 2, 3], &Function::default()).is_err() {
                prop_assert_eq!(function.to_bytes().to_vec(), raw);
            }
        }
    }

    #[test]
    fn a_replaced_list_holds_only_the_new_values_and_a_replaced_number_may_be_zero() {
        let old = Function {
            secret_ids: vec!["st-1".into(), "st-2".into()],
            timeout_secs: 7,
            module_name: "m".into(),
            ..Default::default()
        };
        let mut function = Passthrough::from_message(&old);
        let with = Function { secret_ids: vec!["st-3".into()], ..Default::default() };
        function.replace(&[10, 21], &with).unwrap();
        let view = function.view().unwrap();
        assert_eq!((view.secret_ids, view.timeout_secs, view.module_name.as_str()), (with.secret_ids, 0, "m"));
    }
}
