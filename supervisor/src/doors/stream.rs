//! What `--stream` asks for: a door where each client is a stream of frames from its first moment, and what the frames
//! are like.

use std::path::PathBuf;

use sv3::attachment::{Attachment, FrameForm};

/// What the frames of a stream client are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamForm {
    /// What is in front of each frame.
    pub frames: FrameForm,
    /// Most octets of a frame's payload that the client accepts.
    pub mtu: u32,
}

impl StreamForm {
    /// Complete frames of Ethernet's MTU, as QEMU's `-netdev stream` has them.
    pub const PLAIN: StreamForm = StreamForm { frames: FrameForm::Plain, mtu: Attachment::MTU };
}

/// A door for streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamDoor {
    /// Where it is.
    pub path: PathBuf,
    /// The frames of its clients.
    pub form: StreamForm,
}

impl StreamDoor {
    /// Reads `PATH[,mtu=N][,vnet][,implied]`. The path becomes absolute. The error is for people.
    pub fn parse(text: &str) -> Result<StreamDoor, String> {
        let mut parts = text.split(',');
        let path = parts.next().filter(|path| !path.is_empty()).ok_or("a path is missing")?;
        let path = std::path::absolute(path).map_err(|error| format!("{path}: {error}"))?;
        let mut form = StreamForm::PLAIN;
        for part in parts {
            match (part, part.split_once('=')) {
                ("vnet", _) if form.frames == FrameForm::Plain => form.frames = FrameForm::NetHeader,
                ("implied", _) if form.frames == FrameForm::Plain => form.frames = FrameForm::Implied,
                ("vnet" | "implied", _) => return Err("takes one of vnet and implied, once".to_string()),
                (_, Some(("mtu", mtu))) => form.mtu = parse_mtu(mtu)?,
                _ => return Err(format!("has no option {part:?}: there are mtu=N, vnet and implied")),
            }
        }
        Ok(StreamDoor { path, form })
    }
}

fn parse_mtu(text: &str) -> Result<u32, String> {
    let (least, most) = (Attachment::MTU_MIN, Attachment::MTU_MAX);
    let mtu = text.parse().ok().filter(|mtu| (least..=most).contains(mtu));
    mtu.ok_or_else(|| format!("the mtu must be {least} to {most}, and is {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_has_a_path_and_says_what_its_frames_are_like() {
        let form = |text: &str| StreamDoor::parse(text).map(|door| (door.path.display().to_string(), door.form));
        assert_eq!(form("/a/b"), Ok(("/a/b".to_string(), StreamForm::PLAIN)));
        let large = StreamForm { frames: FrameForm::NetHeader, mtu: 65_520 };
        assert_eq!(form("/a,vnet,mtu=65520"), Ok(("/a".to_string(), large)));
        let implied = StreamForm { frames: FrameForm::Implied, ..StreamForm::PLAIN };
        assert_eq!(form("/a,implied"), Ok(("/a".to_string(), implied)));
        assert!(StreamDoor::parse("a").unwrap().path.is_absolute());
        for (wrong, why) in [
            ("", "path"),
            (",vnet", "path"),
            ("/a,", "no option \"\""),
            ("/a,vent", "no option \"vent\""),
            ("/a,vnet,implied", "one of"),
            ("/a,mtu=67", "68 to 65520"),
            ("/a,mtu=65521", "68 to 65520"),
            ("/a,mtu=x", "68 to 65520"),
        ] {
            let told = StreamDoor::parse(wrong).unwrap_err();
            assert!(told.contains(why), "{wrong}: {told}");
        }
    }
}
