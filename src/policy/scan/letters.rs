//! Letters of other alphabets that read as ASCII. Written by `unicodedata` (Unicode 14: compatibility decompositions without
//! their marks), with small capitals, letters in frames and the signs that programs and people use for `-`, `'` and `"`.

/// Returns the ASCII character that a character is a form of: accented, full-width, mathematical, in a frame.
pub(super) fn form_of(c: char) -> Option<u8> {
    let code = u32::from(c);
    let next = FORMS.partition_point(|(first, _)| *first <= code);
    let (first, forms) = FORMS.get(next.checked_sub(1)?)?;
    forms.as_bytes().get((code - first) as usize).copied().filter(|form| *form != b' ')
}

/// Returns the letter that a lower-case letter of another alphabet looks like.
pub(super) fn look_alike(c: char) -> Option<u8> {
    let place = LOOK_ALIKES.binary_search_by_key(&c, |(letter, _)| *letter).ok()?;
    LOOK_ALIKES.get(place).map(|(_, like)| *like)
}

/// Runs of characters: the first, and what each reads as (a blank: as itself).
#[rustfmt::skip]
static FORMS: &[(u32, &str)] = &[
    (0xaa, "a       23     1o     aaaaaa ceeeeiiii nooooo ouuuuy  aaaaaa ceeeeiiii nooooo ou"),
    (0xfa, "uuuy yaaaaaaccccccccddddeeeeeeeeeegggggggghhhhiiiiiiiiii  jjkk llllll  llnnnnnn"),
    (0x14a, " noooooo  rrrrrrssssssssttttttuuuuuuuuuuuuwwyyyzzzzzzs"), (0x192, "f"), (0x1a0, "oo"),
    (0x1af, "uu   y z"),
    (0x1cd, "aaiioouuuuuuuuuu aaaa   gggkkoooo  j   gg  nnaa    aaaaeeeeiiiioooorrrruuuusstt"),
    (0x21d, " hh      aaeeooooooooyy"),
    (0x251, "a b   d         gg     iiil      n n           r          v   y         b  h  l"),
    (0x2b0, "h jr   wy"), (0x2e1, "lsx"), (0x37e, ";"),
    (0x1d00, "a   cd e  jk m o        p  tu   vwz         a b de ghijklmn o prtuwa   bde   g k"),
    (0x1d50, "m o   ptu  v      iruv"), (0x1d9c, "c   f"), (0x1dbb, "z"),
    (0x1e00, "aabbbbbbccddddddddddeeeeeeeeeeffgghhhhhhhhhhiiiikkkkkkllllllllmmmmmmnnnnnnnnoooo"),
    (0x1e50, "oooopppprrrrrrrrssssssssssttttttttuuuuuuuuuuvvvvwwwwwwwwwwxxxxyyzzzzzzhtwy s"),
    (0x1ea0, "aaaaaaaaaaaaaaaaaaaaaaaaeeeeeeeeeeeeeeeeiiiioooooooooooooooooooooooouuuuuuuuuuuu"),
    (0x1ef0, "uuyyyyyyyy"), (0x1fef, "`"), (0x2010, "------  '' '\"\"      ."), (0x2044, "/"),
    (0x2070, "0i  456789+ =()n0123456789+ =() aeox hklmnpst"),
    (0x2102, "c       ghhhh iill n   pqrrr      z   z kabc eef mo    i           ddeij"),
    (0x2160, "i   v    x  lcdmi   v    x  lcdm"), (0x2212, "-  / *"), (0x2236, ":"), (0x2260, "="),
    (0x226e, "<>"), (0x2460, "123456789"),
    (0x249c, "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz0"),
    (0x2c7c, "jv"), (0xa730, "fs"), (0xa7f2, "cfq"), (0xfb29, "+"), (0xfe10, ",  :;!?"), (0xfe33, "__(){}"),
    (0xfe47, "[]    ___, . ;:?! (){}  #&*+-<>= \\$%@"),
    (0xff01, "!\"#$%&'()*+,-./0123456789:;<=>?@abcdefghijklmnopqrstuvwxyz[\\]^_`abcdefghijklmnop"),
    (0xff51, "qrstuvwxyz{|}~"), (0x107a5, "q"),
    (0x1d400, "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzab"),
    (0x1d450, "cdefg ijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyza cd"),
    (0x1d4a0, "  g  jk  nopq stuvwxyzabcd f hijklmn pqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdef"),
    (0x1d4f0, "ghijklmnopqrstuvwxyzab defg  jklmnopq stuvwxy abcdefghijklmnopqrstuvwxyzab defg"),
    (0x1d540, "ijklm o   stuvwxy abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghij"),
    (0x1d590, "klmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijkl"),
    (0x1d5e0, "mnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijklmn"),
    (0x1d630, "opqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijklmnop"),
    (0x1d680, "qrstuvwxyzabcdefghijklmnopqrstuvwxyz"),
    (0x1d7ce, "01234567890123456789012345678901234567890123456789"),
    (0x1f12b, "cr   abcdefghijklmnopqrstuvwxyz      abcdefghijklmnopqrstuvwxyz      abcdefghijk"),
    (0x1f17b, "lmnopqrstuvwxyz"), (0x1f1e6, "abcdefghijklmnopqrstuvwxyz"), (0x1fbf0, "0123456789"),
];

/// Letters of Greek, Cyrillic, Armenian, Cherokee, Canadian syllabics, Coptic and Lisu that look like Latin ones.
#[rustfmt::skip]
static LOOK_ALIKES: &[(char, u8)] = &[
    ('\u{3ac}', b'a'), ('\u{3ad}', b'e'), ('\u{3ae}', b'n'), ('\u{3af}', b'i'), ('\u{3b1}', b'a'),
    ('\u{3b2}', b'b'), ('\u{3b3}', b'y'), ('\u{3b4}', b'd'), ('\u{3b5}', b'e'), ('\u{3b6}', b'z'),
    ('\u{3b7}', b'n'), ('\u{3b9}', b'i'), ('\u{3ba}', b'k'), ('\u{3bb}', b'l'), ('\u{3bc}', b'u'),
    ('\u{3bd}', b'v'), ('\u{3bf}', b'o'), ('\u{3c1}', b'p'), ('\u{3c2}', b's'), ('\u{3c3}', b'o'),
    ('\u{3c4}', b't'), ('\u{3c5}', b'u'), ('\u{3c7}', b'x'), ('\u{3c9}', b'w'), ('\u{3cc}', b'o'),
    ('\u{3cd}', b'u'), ('\u{3ce}', b'w'), ('\u{3dd}', b'f'), ('\u{3f2}', b'c'), ('\u{3f3}', b'j'),
    ('\u{430}', b'a'), ('\u{431}', b'6'), ('\u{432}', b'b'), ('\u{433}', b'r'), ('\u{435}', b'e'),
    ('\u{437}', b'3'), ('\u{43a}', b'k'), ('\u{43c}', b'm'), ('\u{43d}', b'h'), ('\u{43e}', b'o'),
    ('\u{43f}', b'n'), ('\u{440}', b'p'), ('\u{441}', b'c'), ('\u{442}', b't'), ('\u{443}', b'y'),
    ('\u{445}', b'x'), ('\u{446}', b'u'), ('\u{448}', b'w'), ('\u{44c}', b'b'), ('\u{451}', b'e'),
    ('\u{455}', b's'), ('\u{456}', b'i'), ('\u{457}', b'i'), ('\u{458}', b'j'), ('\u{461}', b'w'),
    ('\u{475}', b'v'), ('\u{4af}', b'y'), ('\u{4bb}', b'h'), ('\u{4cf}', b'l'), ('\u{501}', b'd'),
    ('\u{50d}', b'g'), ('\u{51b}', b'q'), ('\u{51d}', b'w'), ('\u{561}', b'w'), ('\u{565}', b't'),
    ('\u{566}', b'q'), ('\u{56c}', b'l'), ('\u{570}', b'h'), ('\u{575}', b'j'), ('\u{578}', b'n'),
    ('\u{57c}', b'n'), ('\u{57d}', b'u'), ('\u{581}', b'g'), ('\u{584}', b'p'), ('\u{585}', b'o'),
    ('\u{586}', b's'), ('\u{13a0}', b'd'), ('\u{13a2}', b't'), ('\u{13a5}', b'i'), ('\u{13a9}', b'y'),
    ('\u{13aa}', b'a'), ('\u{13ab}', b'j'), ('\u{13ac}', b'e'), ('\u{13b7}', b'm'), ('\u{13bb}', b'h'),
    ('\u{13be}', b'o'), ('\u{13c0}', b'g'), ('\u{13c3}', b'z'), ('\u{13d2}', b'r'), ('\u{13d4}', b'w'),
    ('\u{13d9}', b'v'), ('\u{13da}', b's'), ('\u{13de}', b'l'), ('\u{13df}', b'c'), ('\u{13e2}', b'p'),
    ('\u{13e6}', b'k'), ('\u{13f4}', b'b'), ('\u{142f}', b'v'), ('\u{144c}', b'u'), ('\u{144e}', b'n'),
    ('\u{1455}', b'c'), ('\u{146d}', b'p'), ('\u{148d}', b'j'), ('\u{14aa}', b'l'), ('\u{1515}', b's'),
    ('\u{157c}', b'h'), ('\u{1587}', b'r'), ('\u{15b4}', b'f'), ('\u{15c5}', b'a'), ('\u{15ea}', b'd'),
    ('\u{15ef}', b'w'), ('\u{15f0}', b'm'), ('\u{15f4}', b'e'), ('\u{15f7}', b'b'), ('\u{161c}', b'g'),
    ('\u{166d}', b'x'), ('\u{2c81}', b'a'), ('\u{2c83}', b'b'), ('\u{2c89}', b'e'), ('\u{2c8d}', b'z'),
    ('\u{2c8f}', b'h'), ('\u{2c93}', b'i'), ('\u{2c95}', b'k'), ('\u{2c99}', b'm'), ('\u{2c9b}', b'n'),
    ('\u{2c9f}', b'o'), ('\u{2ca3}', b'p'), ('\u{2ca5}', b'c'), ('\u{2ca7}', b't'), ('\u{2ca9}', b'y'),
    ('\u{2cad}', b'x'), ('\u{a4d0}', b'b'), ('\u{a4d1}', b'p'), ('\u{a4d3}', b'd'), ('\u{a4d4}', b't'),
    ('\u{a4d6}', b'g'), ('\u{a4d7}', b'k'), ('\u{a4d9}', b'j'), ('\u{a4da}', b'c'), ('\u{a4dc}', b'z'),
    ('\u{a4dd}', b'f'), ('\u{a4df}', b'm'), ('\u{a4e0}', b'n'), ('\u{a4e1}', b'l'), ('\u{a4e2}', b's'),
    ('\u{a4e3}', b'r'), ('\u{a4e6}', b'v'), ('\u{a4e7}', b'h'), ('\u{a4ea}', b'w'), ('\u{a4eb}', b'x'),
    ('\u{a4ec}', b'y'), ('\u{a4ee}', b'a'), ('\u{a4f0}', b'e'), ('\u{a4f2}', b'i'), ('\u{a4f3}', b'o'),
    ('\u{a4f4}', b'u'),
];
