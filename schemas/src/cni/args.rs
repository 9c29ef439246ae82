//! `CNI_ARGS`: `KEY=VALUE;KEY=VALUE`.

use crate::cni::error::CniError;
use crate::intent::PodRef;
use crate::name::Mac;

/// What dragline understands of `CNI_ARGS`; other keys are other plugins' and left alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CniArgs {
    /// `K8S_POD_NAMESPACE`, `K8S_POD_NAME`, `K8S_POD_UID`.
    pub pod: PodRef,
    /// `MAC`, as the reference plugins take it.
    pub mac: Option<Mac>,
}

impl CniArgs {
    /// Reads `CNI_ARGS`.
    ///
    /// # Errors
    /// [`CniError::INVALID_ENVIRONMENT`] for a part without `=` or an invalid `MAC`.
    pub fn parse(text: &str) -> Result<Self, CniError> {
        let mut args = Self::default();
        for part in text.split(';').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').ok_or_else(|| {
                CniError::new(
                    CniError::INVALID_ENVIRONMENT,
                    format!("CNI_ARGS: {part:?} is not KEY=VALUE; parts are separated by ';'"),
                )
            })?;
            match key {
                "K8S_POD_NAMESPACE" => value.clone_into(&mut args.pod.namespace),
                "K8S_POD_NAME" => value.clone_into(&mut args.pod.name),
                "K8S_POD_UID" => value.clone_into(&mut args.pod.uid),
                "MAC" => {
                    args.mac = Some(value.parse().map_err(|error| {
                        CniError::new(CniError::INVALID_ENVIRONMENT, format!("CNI_ARGS: MAC: {error}"))
                    })?);
                }
                _ => {}
            }
        }
        Ok(args)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_pod_is_read_and_the_rest_left() {
        let args = CniArgs::parse(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=nginx;K8S_POD_INFRA_CONTAINER_ID=x;K8S_POD_UID=u;MAC=02:00:00:00:00:01",
        )
        .unwrap();
        assert_eq!(args.pod, PodRef { namespace: "default".into(), name: "nginx".into(), uid: "u".into() });
        assert_eq!(args.mac, Some(Mac([2, 0, 0, 0, 0, 1])));
        assert_eq!(CniArgs::parse("").unwrap(), CniArgs::default());
    }

    #[test]
    fn bad_arguments_have_a_clear_error() {
        for (text, what) in [("K8S_POD_NAME", "is not KEY=VALUE"), ("MAC=zz", "MAC address \"zz\" is invalid")] {
            let error = CniArgs::parse(text).unwrap_err();
            assert_eq!(error.code, CniError::INVALID_ENVIRONMENT);
            assert!(error.msg.contains(what), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*") {
            let _ = CniArgs::parse(&text);
        }
    }
}
