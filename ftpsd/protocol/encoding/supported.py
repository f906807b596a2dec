"""The encodings that names may have besides UTF-8, by the names that Python has for them.

In each of them every ASCII byte is that character, and no byte below 0x30 is part of another one. So lines, spaces, the
slash and the dots mean what they mean in UTF-8. `tests/test_encodings.py` checks all bytes and characters of each.
"""

from __future__ import annotations

from collections.abc import Mapping

ENCODINGS = frozenset(
    """
    cp437 cp720 cp737 cp775 cp850 cp852 cp855 cp857 cp858 cp860 cp861 cp862 cp863 cp865 cp866 cp869 cp874 cp1125
    cp1250 cp1251 cp1252 cp1253 cp1254 cp1255 cp1256 cp1257 cp1258
    iso8859-1 iso8859-2 iso8859-3 iso8859-4 iso8859-5 iso8859-6 iso8859-7 iso8859-8 iso8859-9 iso8859-10 iso8859-11
    iso8859-13 iso8859-14 iso8859-15 iso8859-16 koi8-r koi8-u mac-roman mac-cyrillic
    shift_jis euc_jp cp932 euc_kr cp949 gb2312 gbk gb18030 big5 cp950
    """.split()  # noqa: SIM905
)

#: Characters that a codec replaces by similar ones when it encodes: the name would not be found again.
SUBSTITUTES: Mapping[str, str] = {
    "shift_jis": "\u00a5\u203e",
    "euc_jp": "\u00a5\u203e",
    "cp932": "\u00a2\u00a3\u00ac\u2016\u2212\u301c",
    "cp950": "\u00a2\u00a3\u00a5\u2022\u203e\u223c\u2609\u2641\uff64",
    "euc_kr": "\u3164",
}
