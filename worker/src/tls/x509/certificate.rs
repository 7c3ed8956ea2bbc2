//! The content of a certificate (RFC 5280, 4.1), of any version and with any extensions, and its
//! form for webpki.
//!
//! webpki accepts only version 3, no authority at the end of a chain, and no unknown critical
//! extension. [`Certificate::plain`] writes a certificate without the parts that OpenSSL also
//! ignores. Its signature must be verified over the original certificate.

use rustls::pki_types::CertificateDer;

use crate::tls::x509::der::{
    BITS, BOOLEAN, CONTEXT_0, CONTEXT_3, DerValue, INTEGER, OBJECT, OCTETS, SEQUENCE, Values,
    seconds, wrap,
};
use crate::tls::x509::name::{LONGEST_NAME, name, object};
use pen_ipc::message::CertificateFault;

/// The parts of a certificate, each encoded with tag and length unless noted otherwise.
#[derive(Clone, Debug)]
pub struct Certificate<'d> {
    /// The signed part.
    pub signed: &'d [u8],
    /// 1 to 3.
    version: u8,
    serial: &'d [u8],
    algorithm: &'d [u8],
    /// The issuer's name.
    pub issuer: &'d [u8],
    validity: DerValue<'d>,
    /// The owner's name.
    pub subject: &'d [u8],
    /// The public key with its algorithm (SubjectPublicKeyInfo).
    pub key: &'d [u8],
    extensions: Vec<Extension<'d>>,
    /// The algorithm of the signature, and the signature.
    signature: &'d [u8],
}

#[derive(Clone, Copy, Debug)]
struct Extension<'d> {
    /// The contents of its object identifier.
    id: &'d [u8],
    critical: bool,
    /// The contents of its octet string.
    value: &'d [u8],
    whole: &'d [u8],
}

/// The owner of a certificate at the end of a chain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Owner {
    /// A client.
    Client,
    /// A server.
    Server,
}

/// The position of a certificate in a chain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Position {
    /// It is the peer's own.
    End(Owner),
    /// It belongs to an issuer.
    Above,
}

/// A certificate as webpki accepts it.
#[derive(Debug)]
pub struct Plain<'d> {
    /// The certificate: original or rewritten.
    pub certificate: CertificateDer<'d>,
    /// Its signed part now, and the original one; none if it is not rewritten.
    pub signed: Option<(Vec<u8>, &'d [u8])>,
}

/// The first value in these bytes, without the data that OpenSSL appends to a `TRUSTED
/// CERTIFICATE`.
pub fn first(bytes: &[u8]) -> Option<&[u8]> {
    Values(bytes).next().map(|value| value.whole)
}

impl<'d> Certificate<'d> {
    /// Reads a certificate.
    pub fn read(bytes: &'d [u8]) -> Option<Certificate<'d>> {
        let outer = Values(bytes)
            .next()
            .filter(|outer| outer.tag == SEQUENCE && outer.whole.len() == bytes.len())?;
        let mut parts = Values(outer.contents);
        let signed = parts.next().filter(|signed| signed.tag == SEQUENCE)?;
        let signature = parts.0;
        let mut fields = Values(signed.contents);
        let mut ahead = fields;
        let version = match ahead.next()? {
            DerValue { tag: CONTEXT_0, contents, .. } => {
                fields = ahead;
                match Values(contents).next()?.contents {
                    [number @ 0..=2] => number + 1,
                    _ => return None,
                }
            }
            _ => 1,
        };
        let serial = fields.next().filter(|serial| serial.tag == INTEGER)?.whole;
        let mut sequence = || fields.next().filter(|field| field.tag == SEQUENCE);
        let (algorithm, issuer, validity) = (sequence()?.whole, sequence()?.whole, sequence()?);
        let (subject, key) = (sequence()?.whole, sequence()?.whole);
        // Unique identifiers may stand between; they are not in use.
        let extensions = fields.find(|field| field.tag == CONTEXT_3);
        let extensions = match extensions {
            Some(tagged) => Values(tagged.contents)
                .inside(SEQUENCE)?
                .map(Extension::read)
                .collect::<Option<Vec<_>>>()?,
            None => Vec::new(),
        };
        let signed = signed.whole;
        Some(Certificate {
            signed,
            version,
            serial,
            algorithm,
            issuer,
            validity,
            subject,
            key,
            extensions,
            signature,
        })
    }

    /// The first and the last second of its validity, since 1970.
    pub fn validity(&self) -> Option<(i64, i64)> {
        let mut times = Values(self.validity.contents);
        Some((seconds(times.next()?)?, seconds(times.next()?)?))
    }

    /// The owner as text: the subject or, if that is empty, the first DNS name.
    pub fn name(&self) -> String {
        let subject = name(self.subject);
        if !subject.is_empty() {
            return subject;
        }
        let names = self
            .extension(ALTERNATIVE_NAMES)
            .and_then(|found| Values(found.value).inside(SEQUENCE));
        let dns = names.into_iter().flatten().find(|name| name.tag == DNS_NAME);
        dns.map_or(subject, |dns| {
            let letters =
                dns.contents.iter().take(LONGEST_NAME).filter(|byte| byte.is_ascii_graphic());
            letters.map(|byte| char::from(*byte)).collect()
        })
    }

    /// Its serial number, in hexadecimal digits.
    pub fn serial(&self) -> String {
        let number = Values(self.serial).next().map_or(&[][..], |serial| serial.contents);
        let number =
            number.iter().position(|byte| *byte != 0).map_or(&[0][..], |first| &number[first..]);
        let digits: String =
            number.iter().take(LONGEST_SERIAL).map(|byte| format!("{byte:02X}")).collect();
        if number.len() > LONGEST_SERIAL { digits + "..." } else { digits }
    }

    /// Whether issuer and subject are the same name.
    pub fn is_its_own_issuer(&self) -> bool {
        self.subject == self.issuer
    }

    /// Whether it denies being an authority.
    pub fn denies_authority(&self) -> bool {
        self.extension(BASIC_CONSTRAINTS).is_some() && !self.is_authority()
    }

    fn is_authority(&self) -> bool {
        let constraints = self
            .extension(BASIC_CONSTRAINTS)
            .and_then(|found| Values(found.value).inside(SEQUENCE));
        constraints.is_some_and(|mut constraints| {
            constraints
                .next()
                .is_some_and(|is| is.tag == BOOLEAN && is.contents.iter().any(|byte| *byte != 0))
        })
    }

    fn extension(&self, id: &[u8]) -> Option<&Extension<'d>> {
        self.extensions.iter().find(|extension| extension.id == id)
    }

    /// Whether a bit is set in an extension that is a bit string; none = there is no such
    /// extension.
    fn has_bit(&self, id: &[u8], mask: u8) -> Option<bool> {
        let bits = Values(self.extension(id)?.value).next().filter(|bits| bits.tag == BITS);
        Some(bits.is_some_and(|bits| bits.contents.get(1).is_some_and(|first| first & mask != 0)))
    }

    /// The certificate as webpki accepts it. `bytes` is the whole certificate.
    ///
    /// # Errors
    /// It has a part that must not be ignored.
    pub fn plain(
        &self,
        bytes: &'d [u8],
        position: Position,
    ) -> Result<Plain<'d>, CertificateFault> {
        let netscape = match position {
            Position::End(Owner::Client) => NETSCAPE_CLIENT,
            Position::End(Owner::Server) => NETSCAPE_SERVER,
            Position::Above => NETSCAPE_AUTHORITY,
        };
        let use_of_key = match position {
            Position::End(Owner::Server) => SIGNS_OR_AGREES | ENCIPHERS,
            Position::End(Owner::Client) | Position::Above => SIGNS_OR_AGREES,
        };
        let is_end = position != Position::Above;
        let mut kept: Vec<&[u8]> = Vec::new();
        for extension in &self.extensions {
            match extension.id {
                // Policies are not checked here, as in OpenSSL without X509_V_FLAG_POLICY_CHECK.
                id if extension.critical && POLICIES.contains(&id) => {}
                NETSCAPE_TYPE if extension.critical || is_end => {
                    if self.has_bit(NETSCAPE_TYPE, netscape) != Some(true) {
                        return Err(CertificateFault::NetscapeType);
                    }
                }
                // An authority may be a peer itself, if its key may sign.
                BASIC_CONSTRAINTS if is_end && self.is_authority() => {
                    if self.has_bit(KEY_USAGE, use_of_key) == Some(false) {
                        return Err(CertificateFault::Authority);
                    }
                }
                // OpenSSL asks the same of a peer.
                KEY_USAGE
                    if is_end
                        && self.has_bit(KEY_USAGE, use_of_key) == Some(false)
                        && !self.is_authority() =>
                {
                    return Err(CertificateFault::KeyUsage);
                }
                id if extension.critical && !CHECKED.contains(&id) => {
                    return Err(CertificateFault::CriticalExtension(object(id)));
                }
                _ => kept.push(extension.whole),
            }
        }
        if position == Position::Above && self.version != 3 {
            return Err(CertificateFault::IssuerVersion(self.version));
        }
        if self.version == 3 && kept.len() == self.extensions.len() {
            return Ok(Plain { certificate: CertificateDer::from(bytes), signed: None });
        }
        let version = wrap(CONTEXT_0, &[&wrap(INTEGER, &[&[2]])]);
        let extensions = wrap(CONTEXT_3, &[&wrap(SEQUENCE, &kept)]);
        let Certificate { serial, algorithm, issuer, validity, subject, key, .. } = *self;
        let parts =
            [&version, serial, algorithm, issuer, validity.whole, subject, key, &extensions];
        let signed = wrap(SEQUENCE, &parts);
        let certificate = wrap(SEQUENCE, &[&signed, self.signature]);
        Ok(Plain { certificate: certificate.into(), signed: Some((signed, self.signed)) })
    }

    /// The kind of its key, as administrators call it.
    pub fn key_kind(&self) -> String {
        let Some(mut parts) = Values(self.key).inside(SEQUENCE) else {
            return "unknown".to_owned();
        };
        let (Some(mut algorithm), key) = (parts.inside(SEQUENCE), parts.next()) else {
            return "unknown".to_owned();
        };
        let id = algorithm.next().map_or(&[][..], |id| id.contents);
        let parameter = algorithm.next().map_or(&[][..], |parameter| parameter.contents);
        match (id, parameter) {
            (RSA | RSA_PSS, _) => {
                let numbers = key.and_then(|key| Values(key.contents.get(1..)?).inside(SEQUENCE));
                let modulus = numbers
                    .and_then(|mut numbers| numbers.next())
                    .map_or(&[][..], |number| number.contents);
                let modulus = modulus.strip_prefix(&[0]).unwrap_or(modulus);
                format!(
                    "RSA {}",
                    modulus.len() * 8
                        - modulus.first().map_or(0, |byte| byte.leading_zeros() as usize)
                )
            }
            (EC, P256) => "ECDSA P-256".to_owned(),
            (EC, P384) => "ECDSA P-384".to_owned(),
            (EC, P521) => "ECDSA P-521".to_owned(),
            (ED25519, _) => "Ed25519".to_owned(),
            (id, _) => object(id),
        }
    }

    /// Whether its public key is this encoded SubjectPublicKeyInfo. The parameters of RSA, which
    /// are absent or NULL, are ignored.
    pub fn has_key(&self, key: &[u8]) -> bool {
        let parts = |key| {
            let mut parts = Values(key).inside(SEQUENCE)?;
            let mut algorithm = parts.inside(SEQUENCE)?;
            Some((
                algorithm.next()?.contents,
                algorithm.next().map(|parameter| parameter.contents),
                parts.next()?.whole,
            ))
        };
        self.key == key
            || matches!(
                (parts(self.key), parts(key)),
                (Some((RSA, _, own)), Some((RSA, _, other))) if own == other
            )
    }
}

impl<'d> Extension<'d> {
    fn read(value: DerValue<'d>) -> Option<Extension<'d>> {
        let mut parts = Values(value.contents);
        let id = parts.next().filter(|id| id.tag == OBJECT)?.contents;
        let next = parts.next()?;
        let (critical, value_of) = match next.tag {
            BOOLEAN => (next.contents.iter().any(|byte| *byte != 0), parts.next()?),
            _ => (false, next),
        };
        (value.tag == SEQUENCE && value_of.tag == OCTETS).then_some(Extension {
            id,
            critical,
            value: value_of.contents,
            whole: value.whole,
        })
    }
}

/// Most bytes of a serial number that are shown; longer ones are not allowed (RFC 5280, 4.1.2.2).
const LONGEST_SERIAL: usize = 20;

// Object identifiers, encoded.

const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 17];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 15];

/// `nsCertType`, from Netscape.
const NETSCAPE_TYPE: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x86, 0xf8, 0x42, 0x01, 0x01];

/// certificatePolicies, policyMappings, policyConstraints, inhibitAnyPolicy.
const POLICIES: [&[u8]; 4] =
    [&[0x55, 0x1d, 32], &[0x55, 0x1d, 33], &[0x55, 0x1d, 36], &[0x55, 0x1d, 54]];

/// The extensions that webpki knows: keyUsage, subjectAltName, basicConstraints, nameConstraints,
/// cRLDistributionPoints, extKeyUsage.
const CHECKED: [&[u8]; 6] = [
    KEY_USAGE,
    ALTERNATIVE_NAMES,
    BASIC_CONSTRAINTS,
    &[0x55, 0x1d, 30],
    &[0x55, 0x1d, 31],
    &[0x55, 0x1d, 37],
];

const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const RSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const P521: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

/// A DNS name among other names (RFC 5280, 4.2.1.6).
const DNS_NAME: u8 = 0x82;

/// digitalSignature and keyAgreement (RFC 5280, 4.2.1.3).
const SIGNS_OR_AGREES: u8 = 0x88;

/// keyEncipherment, which old certificates of servers have alone.
const ENCIPHERS: u8 = 0x20;
const NETSCAPE_CLIENT: u8 = 0x80;
const NETSCAPE_SERVER: u8 = 0x40;
const NETSCAPE_AUTHORITY: u8 = 0x04;

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CustomExtension, DnType, KeyPair};
    use rustls::sign::SigningKey;

    use super::*;

    fn certificate(extensions: Vec<CustomExtension>) -> (Vec<u8>, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["www.example".into()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "a,b\u{1b}[2J\u{202e}");
        params.distinguished_name.push(DnType::OrganizationName, "x".repeat(1000));
        params.custom_extensions = extensions;
        (params.self_signed(&key).unwrap().der().to_vec(), key)
    }

    #[test]
    fn a_certificate_says_whose_it_is_and_until_when() {
        let (der, key) = certificate(Vec::new());
        let read = Certificate::read(&der).unwrap();
        assert!(
            read.is_its_own_issuer()
                && !read.denies_authority()
                && read.key_kind() == "ECDSA P-256"
        );
        let text = name(read.subject);
        assert!(
            text.contains(r"CN=a\,b\u{1b}[2J\u{202e}") && text.len() < 210 && text.ends_with("..."),
            "{text}"
        );
        assert!(read.validity().unwrap().0 < read.validity().unwrap().1);
        let own =
            crate::tls::x509::signing::Key::new(&key.serialize_der().try_into().unwrap()).unwrap();
        assert!(read.has_key(&own.public_key().unwrap()));
        let other = KeyPair::generate().unwrap();
        let other = crate::tls::x509::signing::Key::new(&other.serialize_der().try_into().unwrap())
            .unwrap();
        assert!(!read.has_key(&other.public_key().unwrap()));
    }

    #[test]
    fn what_openssl_passes_over_is_left_out_and_nothing_else() {
        let critical = |id: &[u64], value: &[u8]| {
            let mut extension = CustomExtension::from_oid_content(id, value.to_vec());
            extension.set_criticality(true);
            extension
        };
        let plain = |extensions, position| {
            let (der, _) = certificate(extensions);
            let read = Certificate::read(&der).unwrap();
            read.plain(&der, position)
                .map(|plain| (plain.signed.is_some(), plain.certificate.to_vec() != der))
        };
        assert_eq!(plain(Vec::new(), Position::End(Owner::Client)), Ok((false, false)));
        assert_eq!(
            plain(vec![critical(&[2, 5, 29, 32], &[0x30, 0])], Position::End(Owner::Client)),
            Ok((true, true))
        );
        let netscape = |bits: u8| vec![critical(&[2, 16, 840, 1, 113730, 1, 1], &[3, 2, 0, bits])];
        assert_eq!(plain(netscape(0x80), Position::End(Owner::Client)), Ok((true, true)));
        assert_eq!(
            plain(netscape(0x40), Position::End(Owner::Client)),
            Err(CertificateFault::NetscapeType)
        );
        assert_eq!(plain(netscape(0x40), Position::End(Owner::Server)), Ok((true, true)));
        assert_eq!(
            plain(netscape(0x80), Position::End(Owner::Server)),
            Err(CertificateFault::NetscapeType)
        );
        let unknown = vec![critical(&[1, 2, 3, 4], &[5, 0])];
        assert_eq!(
            plain(unknown, Position::End(Owner::Client)),
            Err(CertificateFault::CriticalExtension("1.2.3.4".into()))
        );
    }

    #[test]
    fn no_bytes_do_harm() {
        let (whole, _) = certificate(Vec::new());
        let look = |bytes: &[u8]| {
            if let Some(read) = Certificate::read(bytes) {
                let _ = read.plain(bytes, Position::End(Owner::Client));
                let _ = (
                    read.validity(),
                    read.serial(),
                    read.key_kind(),
                    name(read.subject),
                    name(read.issuer),
                );
                let _ = (read.denies_authority(), read.has_key(&whole));
            }
        };
        for end in 0..whole.len() {
            look(&whole[..end]);
            for bit in 0..8 {
                let mut bent = whole.clone();
                bent[end] ^= 1 << bit;
                look(&bent);
            }
        }
    }
}
