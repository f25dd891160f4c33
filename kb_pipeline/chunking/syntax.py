"""Source code at functions and classes, JSON at elements, as tree-sitter's grammars see them."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from kb_pipeline.chunking.blocks import Block
from kb_pipeline.chunking.parse import heading_text
from kb_pipeline.chunking.plain import parse_lines

if TYPE_CHECKING:
    from tree_sitter import Node, Tree

PARSED = frozenset(
    "python javascript typescript tsx go java rust c cpp csharp php kotlin swift json sql powershell lua".split()
)
"""Grammars that survived random and hostile input. Others were seen to end the process (Ruby, YAML) or to take minutes
for kilobytes (Bash, Scala, Perl, Dart), or were not tried: those languages are divided by their lines."""
LONGEST = 10_000_000
"""Characters that are parsed; longer files (generated ones) are split by their lines."""
NOT_ASCII = re.compile(r"[^\x00-\x7f]")
CONTAINER = re.compile(
    r"(^|_)(body|block|content|object|array|block_mapping|block_sequence|flow_mapping|flow_sequence|statements|"
    r"declarations|declaration_list|statement_list|enumerator_list|compound_statement|document|stream|members)$"
)
WRAPPER = re.compile(
    r"^(decorated_definition|export_statement|template_declaration|expression_statement|statement|type_declaration|"
    r"ambient_declaration|block_node|definition|type_system_definition|type_definition)$"
)
CLASS = re.compile(
    r"(^|_)(class|interface|struct|enum|trait|impl|module|mod|namespace|object|protocol|extension|record|union|message|"
    r"service|table|view|type)(_definition|_declaration|_item|_specifier|_statement|_spec|_type_definition)?$"
)
FUNCTION = re.compile(
    r"(^|_)(function|method|constructor|procedure|trigger|subroutine)"
    r"(_definition|_declaration|_item|_statement|_declaration_statement|_signature)?$"
)
NEVER = re.compile(r"^(object|type|function|union_type|struct_type|function_type|enum_body|record_type)$")
PAIR = re.compile(r"^(pair|block_mapping_pair|flow_pair)$")
NAME = re.compile(r"(identifier|name|constant|word)$")
RUN = 80
"""Characters up to which neighbours without a name are one part: a million numbers are not a million blocks."""


def parse_syntax(text: str, start: int, end: int, language: str) -> list[Block]:
    """The top-level statements or elements; text between blank lines where the parser gives up or the file is huge."""
    kind = "element" if language in ("json", "yaml") else "code"
    if language == "xml":
        from kb_pipeline.chunking.xml import parse_xml

        blocks = parse_xml(text, start, end)
    elif language == "yaml":
        from kb_pipeline.chunking.indented import parse_indented

        blocks = parse_indented(text, start, end)
    elif language in PARSED and end - start <= LONGEST:
        tree = _tree(text[start:end], language)
        blocks = _parts(tree.root_node, text, start, kind) if tree is not None else []
    else:
        blocks = parse_lines(text, start, end)
    return blocks or parse_lines(text, start, end)


def _tree(body: str, language: str) -> Tree | None:
    """The syntax tree with offsets in characters, or None when parsing takes out of all proportion.

    Every character outside ASCII is replaced by a letter, so that the parser's bytes are characters. The parser asks
    for leave every 100 steps: ordinary code asks once in 150 to 1,000 bytes, so at once in 50 it is stopped. (Its
    error recovery can take minutes for a few kilobytes.)
    """
    from tree_sitter_language_pack import get_parser

    data = (body if body.isascii() else NOT_ASCII.sub("x", body)).encode()
    left = 200 + len(data) // 50

    def stop(_offset: int, _error: bool) -> bool:
        nonlocal left
        left -= 1
        return left < 0

    try:
        parser = get_parser(language)  # pyright: ignore[reportArgumentType]
        return parser.parse(lambda at, _point: data[at : at + 65_536], progress_callback=stop)
    except ValueError:
        return None


def _parts(node: Node, text: str, offset: int, kind: str, block: Block | None = None) -> list[Block]:
    """Blocks of the node's statements, members or elements; with `block`, after one for its first lines."""
    body = _body(node, top=block is None)
    if body is None:
        return []
    parts: list[Block] = []
    for child in body.named_children:
        start, end = offset + child.start_byte, offset + child.end_byte
        if "comment" in child.type:
            parts.append(Block(start, end, kind))
            continue
        part = _block(child, start, end, text, offset, kind)
        before = parts[-1] if parts else None
        if before is not None and part.title is None and before.title is None and before.kind == part.kind:
            if end - before.start <= RUN and "\n" not in text[before.end : start]:
                before.end = end
                before.parts = None
                continue
        parts.append(part)
    parts = _with_comments(parts, text)
    if block is not None and parts and parts[0].start > block.start:
        first = text.rfind("\n", block.start, parts[0].start) + 1 or parts[0].start
        parts.insert(0, Block(block.start, first, "heading"))
    return parts


def _with_comments(parts: list[Block], text: str) -> list[Block]:
    """Comments directly above a function or class belong to it."""
    out: list[Block] = []
    for part in parts:
        if part.title is not None:
            while out and out[-1].title is None and _is_comment(text, out[-1]) and _touch(text, out[-1], part):
                part.start = out.pop().start
        out.append(part)
    return out


def _is_comment(text: str, block: Block) -> bool:
    return text[block.start : block.start + 2].startswith(("//", "/*", "#", "--", ";", "%", '"""', "'''", "(*", "{-"))


def _touch(text: str, above: Block, below: Block) -> bool:
    return text.count("\n", above.end, below.start) <= 1


def _block(node: Node, start: int, end: int, text: str, offset: int, kind: str) -> Block:
    definition = _definition(node)
    title: str | None = None
    if definition is not None:
        kind = "function" if FUNCTION.search(definition.type) else "class"
        title = _name(definition, text, offset)
    elif PAIR.match(node.type):
        key = node.child_by_field_name("key") or (node.named_children[0] if node.named_children else None)
        if key is not None:
            title = heading_text(text[offset + key.start_byte : offset + min(key.end_byte, key.start_byte + 200)])
            title = title.strip("\"'") or None
    block = Block(start, end, kind, title=title)
    inner = definition if definition is not None else node
    if _body(inner) is not None:
        block.parts = partial(_inner_parts, inner, text, offset, "element" if kind == "element" else "code")
    return block


def _inner_parts(node: Node, text: str, offset: int, kind: str, block: Block) -> list[Block]:
    return _parts(node, text, offset, kind, block)


def _definition(node: Node) -> Node | None:
    """The function or class that the node is, or that it wraps in a decorator, an export, a template."""
    for _ in range(4):
        if not NEVER.match(node.type) and (FUNCTION.search(node.type) or CLASS.search(node.type)):
            return node
        if node.type.startswith("create_"):
            return node
        if not WRAPPER.match(node.type):
            return None
        inner = node.child_by_field_name("definition") or node.child_by_field_name("declaration")
        if inner is None:
            named = [child for child in node.named_children if "comment" not in child.type]
            inner = named[-1] if named else None
        if inner is None:
            return None
        node = inner
    return None


def _name(node: Node, text: str, offset: int) -> str | None:
    found = node.child_by_field_name("name")
    if found is None:
        declarator = node.child_by_field_name("declarator")
        while declarator is not None:
            found = declarator
            declarator = declarator.child_by_field_name("declarator")
    if found is None and node.type == "impl_item":
        body = node.child_by_field_name("body")
        end = body.start_byte if body is not None else node.end_byte
        return heading_text(text[offset + node.start_byte : offset + end]) or None
    if found is None:
        found = next((child for child in node.named_children if NAME.search(child.type)), None)
    if found is None:
        return None
    return heading_text(text[offset + found.start_byte : offset + min(found.end_byte, found.start_byte + 200)]) or None


def _body(node: Node, *, top: bool = False) -> Node | None:
    """Where the node's members stand, past wrappers that hold one thing only; the `top` node is such a place itself."""
    for depth in range(12):
        if not (top and depth == 0) and not CONTAINER.search(node.type):
            inner = node.child_by_field_name("body") or node.child_by_field_name("value")
            if inner is None:
                inner = next((c for c in reversed(node.named_children) if CONTAINER.search(c.type)), None)
            if inner is None and WRAPPER.match(node.type) and node.named_child_count:
                inner = node.named_children[-1]
            if inner is None:
                return None
            node = inner
            if not CONTAINER.search(node.type) and not WRAPPER.match(node.type):
                return None
            continue
        if node.named_child_count == 1 and (only := node.named_children[0]) and CONTAINER.search(only.type):
            node = only
            continue
        return node if node.named_child_count else None
    return None
