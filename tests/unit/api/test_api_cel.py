"""CEL: Kubernetes' functions, its words for failures, limits, and what the syntax tree tells."""

from __future__ import annotations

import pytest

pytest.importorskip("cel_expr_python", reason="`make bootstrap` installs it")

from cluster.api import cel
from cluster.api.cel.cost import Shape, estimate, shape_of
from cluster.api.cel.library.authz import authorizer
from cluster.api.cel.portable import portable

SELF = {"a": 1, "l": [1, 2], "cpu": "500m", "s": "abc"}


def value(expression: str, **data: object) -> object:
    return cel.environment("self", "object").compile(expression).evaluate({"self": SELF, **data})


@pytest.mark.parametrize(
    "expression",
    [
        "quantity(self.cpu).isLessThan(quantity('1'))",
        "quantity('1Ki') == quantity('1024')",
        "quantity('1').add(2).sub(quantity('500m')).compareTo(quantity('2.5')) == 0",
        "!isQuantity('two') && quantity('2').asInteger() == 2 && quantity('-1').sign() == -1",
        "self.l.sum() == 3 && self.l.max() == 2 && self.l.min() == 1 && self.l.isSorted()",
        "sets.contains([1, 2], [2]) && sets.intersects([1], [1, 3]) && sets.equivalent([1, 1], [1])",
        "'abc 12 d34'.findAll('[0-9]+') == ['12', '34'] && 'a1'.find('[0-9]') == '1'",
        "'a1 b2 c3'.findAll('[0-9]', 2) == ['1', '2']",
        "url('https://u@h.example:8443/p%20q?x=1').getPort() == '8443'",
        "url('https://h.example/p').getHostname() == 'h.example' && !isURL('no url')",
        "ip('10.0.0.1').family() == 4 && ip('::1').isLoopback() && !isIP('10.0.0.01')",
        "ip.isCanonical('2001:db8::1') && !ip.isCanonical('2001:DB8::1')",
        "cidr('10.0.0.0/8').containsIP('10.1.2.3') && !cidr('10.0.0.0/8').containsIP(ip('11.0.0.1'))",
        "cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && cidr('10.1.2.3/8').masked() == cidr('10.0.0.0/8')",
        "semver('1.2.3-rc.1').isLessThan(semver('1.2.3')) && semver('1.10.0').isGreaterThan(semver('1.9.9'))",
        "'%s has %d'.format(['a', 1]) == 'a has 1' && 'a,b'.split(',').join('-') == 'a-b'",
        "self.?nope.orValue(7) == 7 && self[?'a'].orValue(0) == 1",
        "self.l.all(i, v, v == i + 1) && {'x': 1}.exists(k, v, k == 'x' && v == 1) && !self.l.existsOne(i, v, v > 0)",
        "self.l.transformList(i, v, i > 0, v * 10) == [20]",
        "{'x': 1, 'y': 2}.transformMap(k, v, v > 1, v + 1) == {'y': 3}",
        "self.l.transformMap(i, v, {'a, b': v})[1]['a, b'] == 2",
        "{'x': 'y'}.transformMapEntry(k, v, {v: k}) == {'y': 'x'}",
        "['a', 'b', 'a'].indexOf('b') == 1 && ['a', 'b', 'a'].lastIndexOf('a') == 2 && self.l.indexOf(7) == -1",
        "self.s.indexOf('c') == 2 && 'a.b.c'.indexOf('.', 2) == 3 && 'tacocat'.lastIndexOf('a', 2) == 1",
        "!format.dns1123Label().validate('ok').hasValue() && format.uuid().validate('x').hasValue()",
        "format.named('date').value().validate('1 May').value() == ['invalid date'] && !format.named('no').hasValue()",
        "!format.dns1035LabelPrefix().validate(self.s + '-').hasValue()",
        "has(self.a) && !has(self.nope) && self.l.map(x, x * 2).exists(x, x == 4)",
    ],
)
def test_kubernetes_functions(expression: str) -> None:
    assert value(expression) is True


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("self.nope == 1", "no such key: nope"),
        ("self.a < 'x'", "no such overload"),
        ("self.l[2] == 0", "index out of bounds: 2"),
        ("1 / 0 == 0", "division by zero"),
        ("[].max() == 0", "max called on empty list"),
        ("{'a': 1, 'b': 1}.transformMapEntry(k, v, {v: k}) == {}", "insert failed: key 1 already exists"),
        ("'abc'.indexOf('b', -1) == 0", "index out of range: -1"),
    ],
)
def test_failures_have_the_words_of_cel_go(expression: str, message: str) -> None:
    with pytest.raises(cel.EvaluationError) as e:
        value(expression)
    assert str(e.value) == message


def test_an_expression_that_does_not_compile_says_where() -> None:
    with pytest.raises(cel.CompileError) as e:
        cel.environment("self").compile("1 + selv > 2")
    assert str(e.value).startswith("ERROR: <input>:1:5: undeclared reference to 'selv")


def test_a_message_names_functions_as_they_were_written() -> None:
    with pytest.raises(cel.CompileError) as e:
        cel.environment("self").compile("'a'.indexOf(1) == 0")
    assert "'indexOf' applied to '(string, int)'" in str(e.value)


@pytest.mark.parametrize(
    ("written", "made"),
    [
        ("a.indexOf(b)", "a.index0f(b)"),
        ("'x.indexOf(y)' == r'\\'", "'x.indexOf(y)' == r'\\'"),
        ("c ? f(x).g[1].validate(s) : t", "c ? optional.ofNonZeroValue(f(x).g[1].validate(s)) : t"),
        ("x in [1].transformMap(k, v, v)", "x in [1].transformList(k, v, {k: v}).merged()"),
        ("format . named('a')", "optional.ofNonZeroValue(format . named('a'))"),
        ("other.named('a') && validate(1)", "other.named('a') && validate(1)"),
        ("a.validate(b.validate(c))", "optional.ofNonZeroValue(a.validate(optional.ofNonZeroValue(b.validate(c))))"),
        ("a).indexOf(b)", "a).indexOf(b)"),
    ],
)
def test_only_what_the_engine_cannot_express_changes(written: str, made: str) -> None:
    assert portable(written) == made


def test_expressions_about_one_object_share_a_budget() -> None:
    program = cel.environment("self").compile("self.l.all(x, self.l.all(y, x <= y))")
    data = {"self": {"l": [1] * 50}}
    assert 3 * program.cost(data) < 100_000 < program.cost(data) * 8
    budget = cel.Budget(100_000)
    with pytest.raises(cel.OutOfBudget, match="running out of cost budget"):
        for _ in range(8):
            program.evaluate(data, budget=budget)
    cheap = cel.Budget(100_000)
    for _ in range(1000):
        program.evaluate({"self": {"l": [1, 2]}}, budget=cheap)


def test_the_result_type_is_checked() -> None:
    with pytest.raises(cel.CompileError, match="must evaluate to bool"):
        cel.environment("self").compile("1 + 1", "BOOL")
    assert cel.environment("self").compile("self.a", "BOOL").result == "DYN"


def test_a_variable_left_out_is_null() -> None:
    assert value("object == null") is True


def test_the_authorizer_is_asked_with_what_was_said() -> None:
    asked: list[dict[str, str]] = []

    def answer(attributes: dict[str, str]) -> tuple[bool, str]:
        asked.append(attributes)
        return attributes["verb"] == "get", "because"

    env = cel.environment("authorizer")
    expression = "authorizer.group('apps').resource('deployments').namespace('ns').name('d').check('%s').allowed()"
    data = {"authorizer": authorizer()}
    assert env.compile(expression % "get").evaluate(data, authorize=answer) is True
    assert env.compile(expression % "delete").evaluate(data, authorize=answer) is False
    assert asked[0] == {
        "group": "apps",
        "resource": "deployments",
        "namespace": "ns",
        "name": "d",
        "verb": "get",
    }
    with pytest.raises(cel.EvaluationError, match="authorizer is not available"):
        env.compile(expression % "get").evaluate(data)


def test_nested_loops_over_long_lists_are_not_begun() -> None:
    program = cel.environment("self").compile("self.l.all(x, self.l.all(y, x <= y))")
    assert program.evaluate({"self": {"l": [1] * 90}}) is True
    with pytest.raises(cel.EvaluationError, match="actual cost limit exceeded"):
        program.evaluate({"self": {"l": [1] * 2000}})


def test_cost_grows_with_what_the_schema_allows_and_unknown_fields_are_found() -> None:
    program = cel.environment(self="map").compile("self.items.all(i, i.name.startsWith(self.prefix)) && self.gone == 1")
    item = Shape(2, None, {"name": Shape(64)}, closed=True)

    def shape(n: int) -> Shape:
        fields = {"items": Shape(float(n), item, what="list"), "prefix": Shape(16)}
        return Shape(2, None, fields, closed=True)

    small, large = (estimate(program.tree, {"self": shape(n)}) for n in (10, 1000))
    assert 50 * small.cost < large.cost < 150 * small.cost
    assert small.undefined == ["gone"]
    assert {"self"} <= program.names


def test_the_cost_of_data_at_hand_is_within_the_cost_of_its_schema() -> None:
    program = cel.environment("self").compile("self.l.all(x, x > 0)")
    data = {"self": {"l": [1, 2, 3]}}
    declared = Shape(1, None, {"l": Shape(3, Shape(), what="list")}, closed=True)
    assert (
        estimate(program.tree, {"self": shape_of(data["self"])}).cost <= estimate(program.tree, {"self": declared}).cost
    )
