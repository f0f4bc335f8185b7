//! The strings of one element, which are told once the types of the objects around them are known: `type` may come last.

use super::calls::Calls;
use super::text::{Texts, is_common, is_image};
use super::{LONG_NUMBER, Reader};
use crate::policy::rule::{Place, Role};
use crate::protocol::dialects::request_shape::{Part, RequestShape, is};
use crate::protocol::json::whole::{Token, Tokens, is_word, unescape};

/// Strings that are kept before they are told; of more, what is known of the objects so far counts.
const KEPT: usize = 1 << 14;
/// Objects that are told apart in one element; strings of others count as those of the object around them.
const OBJECTS: usize = 1 << 13;
/// Containers whose kinds are known; strings in deeper ones count as those of the last of these.
const DEPTH: usize = 256;

/// Members that have the bytes of an image or a file, or a URL of it.
const MEDIA: [&str; 8] = ["data", "url", "image_url", "file_data", "images", "image", "bytes", "result"];

/// What the value of a member says of the object that it is in; one member may say several.
mod says {
    pub(super) const TYPE: u8 = 1;
    pub(super) const ROLE: u8 = 2;
    pub(super) const CALL_ID: u8 = 4;
    pub(super) const RESULT_ID: u8 = 8;
    pub(super) const TOOL: u8 = 16;
    pub(super) const FAILURE: u8 = 32;
}

/// The member whose value comes next.
#[derive(Clone, Copy, Debug, Default)]
struct Member {
    /// What is in it.
    kind: Option<Place>,
    /// Bits of [`says`].
    says: u8,
    /// APIs have the bytes of images and files in members of this name.
    is_media: bool,
}

/// A string, where it is and what is known of it.
#[derive(Clone, Copy, Debug)]
struct Text<'b> {
    raw: &'b [u8],
    object: u32,
    kind: Option<Place>,
    /// It may be the bytes of an image.
    is_media: bool,
}

/// An object of the element.
#[derive(Clone, Copy, Debug)]
struct Object<'b> {
    parent: u32,
    begin: usize,
    end: usize,
    kind: Option<Place>,
    call_id: Option<&'b [u8]>,
    result_id: Option<&'b [u8]>,
    tool: Option<&'b [u8]>,
    is_error: bool,
    /// It is in a call or a result, so what it says of itself does not count.
    is_fixed: bool,
    /// The object around this one, or this one, that is the result of a call.
    result: Option<u32>,
}

/// An open container.
#[derive(Clone, Copy, Debug)]
struct Open {
    object: u32,
    is_object: bool,
    /// What is in an array.
    kind: Option<Place>,
    is_media: bool,
}

/// Reads the strings of elements, one after another.
#[derive(Debug)]
pub(super) struct Strings<'b> {
    shape: &'static RequestShape,
    part: Part,
    tokens: Tokens<'b>,
    open: Vec<Open>,
    /// Open containers beyond [`DEPTH`].
    deeper: usize,
    objects: Vec<Object<'b>>,
    texts: Vec<Text<'b>>,
    member: Member,
    /// Who speaks in a turn.
    role: Option<Role>,
    is_json: bool,
}

impl<'b> Strings<'b> {
    pub(super) fn new() -> Self {
        Self {
            shape: &RequestShape::UNKNOWN,
            part: Part::Other,
            tokens: Tokens::new(b""),
            open: Vec::new(),
            deeper: 0,
            objects: Vec::new(),
            texts: Vec::new(),
            member: Member::default(),
            role: None,
            is_json: true,
        }
    }

    /// Begins with the next element.
    pub(super) fn begin(&mut self, shape: &'static RequestShape, part: Part, raw: &'b [u8]) {
        (self.shape, self.part, self.tokens) = (shape, part, Tokens::new(raw));
        self.open.clear();
        self.objects.clear();
        self.texts.clear();
        (self.deeper, self.member, self.role, self.is_json) = (0, Member::default(), None, true);
        // The element itself, where it is no object.
        self.add_object(0, None);
        self.objects[0].end = raw.len();
    }

    /// Whether the element has nothing between its strings that JSON does not have.
    pub(super) fn is_json(&self) -> bool {
        self.is_json
    }

    /// Reads on. Returns whether there is more after what was kept is told.
    pub(super) fn read(&mut self) -> bool {
        self.texts.clear();
        while self.texts.len() < KEPT {
            let at = self.tokens.next_position();
            let Some(token) = self.tokens.next() else { return false };
            match token {
                Token::Open { is_object } => self.open(is_object, at),
                Token::Close => self.close(),
                Token::Text { raw, is_key: true } => self.key(raw),
                Token::Text { raw, is_key: false } => self.string(raw),
                Token::Cut(raw) => {
                    self.is_json = false;
                    self.string(raw);
                }
                Token::Bare(raw) => self.bare(raw),
            }
        }
        true
    }

    fn around(&self) -> Open {
        self.open.last().copied().unwrap_or(Open { object: 0, is_object: false, kind: None, is_media: false })
    }

    fn add_object(&mut self, begin: usize, kind: Option<Place>) -> u32 {
        let parent = self.around().object;
        if self.objects.len() >= OBJECTS {
            return parent;
        }
        self.objects.push(Object {
            parent,
            begin,
            end: begin,
            kind,
            call_id: None,
            result_id: None,
            tool: None,
            is_error: false,
            is_fixed: false,
            result: None,
        });
        self.objects.len() as u32 - 1
    }

    fn open(&mut self, is_object: bool, at: usize) {
        let member = std::mem::take(&mut self.member);
        if self.open.len() >= DEPTH {
            self.deeper += 1;
            return;
        }
        let around = self.around();
        let kind = member.kind.or(around.kind);
        let next = match is_object {
            true => Open { object: self.add_object(at, kind), is_object, kind: None, is_media: false },
            false => Open { object: around.object, is_object, kind, is_media: member.is_media },
        };
        self.open.push(next);
    }

    fn close(&mut self) {
        self.member = Member::default();
        if self.deeper > 0 {
            self.deeper -= 1;
        } else if let Some(open) = self.open.pop()
            && open.is_object
        {
            self.objects[open.object as usize].end = self.tokens.position();
        }
    }

    fn key(&mut self, raw: &'b [u8]) {
        self.member = Member::default();
        let is_turn = self.open.len() == 1;
        if self.part == Part::Turns {
            self.member = match memchr::memchr(b'\\', raw) {
                None => self.member_of(raw, is_turn),
                Some(_) => {
                    let mut key = Vec::new();
                    unescape(&mut key, raw);
                    self.member_of(&key, is_turn)
                }
            };
        }
        self.member.is_media = MEDIA.iter().any(|name| is(name, raw));
        if !is_common(raw) {
            self.keep(raw, None, false);
        }
    }

    /// Returns what a member of an object in a turn says.
    fn member_of(&self, key: &[u8], is_turn: bool) -> Member {
        let shape = self.shape;
        let among = |names: &[&str]| names.iter().any(|name| is(name, key));
        let mut says = 0;
        for (bit, is_said) in [
            (says::TYPE, is("type", key)),
            (says::ROLE, is_turn && is("role", key)),
            (says::CALL_ID, among(shape.call_ids)),
            (says::RESULT_ID, among(shape.result_ids)),
            (says::TOOL, among(shape.tool_names)),
            (says::FAILURE, among(shape.failures)),
        ] {
            says |= if is_said { bit } else { 0 };
        }
        Member { kind: shape.in_member(key), says, is_media: false }
    }

    fn string(&mut self, raw: &'b [u8]) {
        let Member { kind, says, is_media } = std::mem::take(&mut self.member);
        let around = self.around();
        if says != 0 && self.deeper == 0 {
            self.note(says, raw, around.object as usize);
        }
        if !is_common(raw) {
            self.keep(raw, kind.or(around.kind), is_media || around.is_media);
        }
    }

    fn note(&mut self, says: u8, raw: &'b [u8], object: usize) {
        let object = &mut self.objects[object];
        if says & says::TYPE != 0 {
            object.kind = self.shape.of_type(raw).or(object.kind);
        }
        if says & says::ROLE != 0 {
            let role = self.shape.role(raw).unwrap_or(Role::User);
            // Who says it twice, and says two things, is a user.
            self.role = Some(if self.role.is_none_or(|known| known == role) { role } else { Role::User });
        }
        if says & says::CALL_ID != 0 {
            object.call_id = Some(raw);
        }
        if says & says::RESULT_ID != 0 {
            object.result_id = Some(raw);
        }
        if says & says::TOOL != 0 {
            object.tool = Some(raw);
        }
        object.is_error |= says & says::FAILURE != 0 && raw == b"error";
    }

    fn bare(&mut self, raw: &'b [u8]) {
        let Member { says, .. } = std::mem::take(&mut self.member);
        let object = self.around().object;
        self.is_json &= is_word(raw);
        if says & says::FAILURE != 0 && raw == b"true" && self.deeper == 0 {
            self.objects[object as usize].is_error = true;
        }
        if raw.len() >= LONG_NUMBER {
            self.keep(raw, None, false);
        }
    }

    fn keep(&mut self, raw: &'b [u8], kind: Option<Place>, is_media: bool) {
        let object = self.around().object;
        if !raw.is_empty() {
            self.texts.push(Text { raw, object, kind, is_media });
        }
    }

    /// Who speaks where an object does not say more: in a turn without a role, what it is tells.
    fn speaker(&self, kind: Place) -> Role {
        match (kind, self.role) {
            (Place::ToolResult, _) => Role::Tool,
            (_, Some(role)) => role,
            (Place::ToolArgs | Place::Reasoning, None) if self.part == Part::Turns => Role::Assistant,
            (_, None) => self.part.role(),
        }
    }

    /// Finds out what each object is, by the objects around it.
    fn settle(&mut self) {
        let base = match self.role {
            Some(Role::Tool) => Place::ToolResult,
            Some(Role::System) => Place::System,
            Some(Role::User | Role::Assistant) | None => self.part.kind(),
        };
        for index in 0..self.objects.len() {
            let Object { parent, kind, result_id, tool, .. } = self.objects[index];
            let around = (index > 0).then(|| self.objects[parent as usize]);
            // Calls and results have any JSON in them, which says nothing of itself.
            let fixed =
                around.and_then(|around| around.kind).filter(|_| index > 1).filter(|kind| is_foreign(*kind));
            let known = fixed.or(kind).or(around.and_then(|around| around.kind)).unwrap_or(base);
            let around_result =
                around.and_then(|around| around.result).filter(|_| known == Place::ToolResult);
            let names_itself = result_id.is_some() || tool.is_some() || kind.is_some();
            let is_result = known == Place::ToolResult && names_itself && index > 0;
            let object = &mut self.objects[index];
            (object.kind, object.is_fixed) = (Some(known), fixed.is_some());
            object.result = around_result.or(is_result.then_some(index as u32));
        }
    }

    /// Tells what was read since the last time.
    pub(super) fn tell(&mut self, calls: &mut Calls<'b>, texts: &mut Texts, reader: &mut dyn Reader) {
        if self.texts.is_empty() {
            return;
        }
        self.settle();
        let mut last = None;
        texts.set_result(None);
        for text in &self.texts {
            let object = &self.objects[text.object as usize];
            let own = text.kind.filter(|_| !object.is_fixed);
            let kind = own.or(object.kind).unwrap_or(Place::Text);
            // A call that the provider has made itself has its result beside it.
            let beside = (own == Some(Place::ToolResult)).then_some(text.object);
            let number = object.result.or(beside).filter(|_| kind == Place::ToolResult);
            if number != last {
                last = number;
                texts.set_result(number.map(|number| {
                    let result = &self.objects[number as usize];
                    let tool = result.tool.or_else(|| calls.tool_of(result.result_id?));
                    (number, result.result_id, tool, result.is_error, result.end.saturating_sub(result.begin))
                }));
            }
            // What a tool is called with may be anything.
            if !(text.is_media && kind != Place::ToolArgs && is_image(text.raw)) {
                texts.tell(self.speaker(kind), kind, text.raw, reader);
            }
        }
    }

    /// Reports the calls in a turn: their ids and tools.
    pub(super) fn calls(&mut self, on: &mut dyn FnMut(&'b [u8], &'b [u8])) {
        self.settle();
        // Some APIs have the name of the tool in an object beside the id.
        for index in 1..self.objects.len() {
            let Object { parent, tool, call_id, .. } = self.objects[index];
            let around = &mut self.objects[parent as usize];
            if call_id.is_none() && around.call_id.is_some() && around.tool.is_none() {
                around.tool = tool;
            }
        }
        for object in self.objects.iter().filter(|object| !object.is_fixed) {
            if let (Some(id), Some(tool), Some(Place::ToolArgs)) = (object.call_id, object.tool, object.kind)
            {
                on(id, tool);
            }
        }
    }
}

/// Whether what is of this kind comes from elsewhere, and may have any JSON in it.
fn is_foreign(kind: Place) -> bool {
    matches!(kind, Place::ToolArgs | Place::ToolResult)
}
