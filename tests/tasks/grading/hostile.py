"""Completions that attack a grader: code, bombs of arithmetic, size, nesting, regex traps, odd characters."""

from __future__ import annotations

CODE = [
    "__import__('os').system('touch {canary}')",
    "__import__('pathlib').Path('{canary}').touch()",
    "open('{canary}','w').close()",
    "exec(\"open('{canary}','w')\")",
    "eval(\"open('{canary}','w')\")",
    "(lambda: open('{canary}','w'))()",
    "[open('{canary}','w') for _ in [0]]",
    "().__class__.__base__.__subclasses__()[0].__init__.__globals__['open']('{canary}','w')",
    "Integer(1).__class__.__mro__[0].__init__.__globals__['__builtins__']['open']('{canary}','w')",
    "sympify(\"open('{canary}','w')\")",
    "S(\"__import__('os').system('touch {canary}')\")",
    "parse_expr('open(\"{canary}\",\"w\")')",
    "lambdify([], 'open(\"{canary}\",\"w\")')()",
    "Function('open')('{canary}', 'w')",
    "Symbol('x').__reduce__()",
    "cos(open('{canary}','w').close() or 0)",
    "numpy.load('{canary}')",
    "torch.load('{canary}')",
    "pickle.loads(b\"cposix\\nsystem\\n(S'touch {canary}'\\ntR.\")",
    "yaml: !!python/object/apply:os.system ['touch {canary}']",
    "$(touch {canary})",
    "`touch {canary}`",
    "; touch {canary} #",
    "| touch {canary}",
    "<script>require('fs').writeFileSync('{canary}','')</script>",
    "require('child_process').execSync('touch {canary}')",
    "${{jndi:ldap://localhost/{canary}}}",
    "{{{{ ''.__class__.__mro__ }}}}",
    "%(canary)s %n %s",
    "{0.__class__.__init__.__globals__}",
    r"\immediate\write18{{touch {canary}}}",
    r"\input{{{canary}}}",
    r"\openout1={canary}",
    r"\def\x{{\x\x}}\x",
    r"\directlua{{os.execute('touch {canary}')}}",
    "'; DROP TABLE answers; --",
    "1 if open('{canary}','w') else 2",
    "f'{{open(\"{canary}\",\"w\")}}'",
    "x:=open('{canary}','w')",
    "import os; os.remove('{canary}')",
    r"\operatorname{{open}}('{canary}','w')",
    r"\text{{__import__('os').system('touch {canary}')}}",
    r"\mathrm{{exec}}(\text{{open('{canary}','w')}})",
]  # fmt: skip
"""In the dialect of every evaluator that a grader may be tempted to use; {canary} must never be touched."""

ARITHMETIC = [
    "9^{9^{9^{9}}}", "9^9^9^9^9", "9**9**9**9", "(((9^9)^9)^9)^9", "(9^{99999})^{99999}",
    "2^{2^{2^{2^{2^{2}}}}}", "10^{10^{100}}", "10^{100000000}", "x^{99999999999}", "(x+1)^{99999}",
    "(x+y+z)^{9999}", "e^{e^{e^{e^{9}}}}", "(1+10^{-9})^{10^{9}}", "3^{10^{9}} \\bmod 7", "1000000!",
    "99999999!", "(10!)!", "((5!)!)!", "9!!!!!!", "170!!", "(10^{9})!", "\\binom{1000000000}{500000000}",
    "\\binom{99999}{50000}", "\\binom{10^{9}}{10^{8}}", "C(1000000,500000)", "\\sum_{k=1}^{1000000000} k^{k}",
    "\\sum_{n=1}^{\\infty} \\frac{1}{n^{n}}", "\\prod_{k=1}^{10000000} k",
    "\\prod_{p=1}^{\\infty} (1-p^{-s})", "\\sum_{a=1}^{999}\\sum_{b=1}^{999}\\sum_{c=1}^{999} a^b",
    "\\int_0^1 x^{x^{x}} dx", "\\int\\int\\int\\int xyz",
    "\\lim_{x\\to 0} \\frac{\\sin(\\tan x)-\\tan(\\sin x)}{x^{7}}", "\\lim_{n\\to\\infty} (n!)^{1/n^{n}}",
    "\\sqrt[99999]{2}", "\\sqrt{\\sqrt{\\sqrt{\\sqrt{\\sqrt{2+\\sqrt{3}}}}}}+\\sqrt[7]{5}",
    "\\sin(10^{10^{10}})", "\\log(\\log(\\log(0)))", "\\frac{1}{0}", "0^{0^{0}}", "\\frac{0}{0}",
    "\\infty-\\infty", "\\tan(\\frac{\\pi}{2})", "\\Gamma(10^{9})", "\\zeta(99999)",
    "\\gcd(10^{99},10^{98}+1)", "\\lfloor 10^{999} \\rfloor",
    "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}^{999999}",
    "\\det\\begin{pmatrix}x&y\\\\z&w\\end{pmatrix}^{99999}", "1e999999999", "1E+99999", "0x" + "f" * 5000,
    "1/" + "3" * 3000, "7" * 4400, "0." + "1" * 9000, "-" * 3000 + "1",
    "+".join([f"x^{{{n}}}" for n in range(80)]), "(x^{2}+1)" * 60, "x" * 450,
    "\\frac{1}{x+" * 30 + "1" + "}" * 30, "\\sin(" * 40 + "x" + ")" * 40, "|" * 99 + "x",
    "\\sqrt{" * 50 + "2" + "}" * 50, "x=y=z=" * 60 + "1", "1,2,3," * 70 + "4", "\\pm 1" * 40,
    "\\{" * 19 + "1" + "\\}" * 19, "a_{b_{c_{d_{e_{f}}}}}", "x'" * 100,
    "\\sqrt{x^{7}+\\sqrt{x^{5}+\\sqrt{x^{3}+1}}}=\\sin(x)+x^{x}", "x^{5}-x+1>\\sin(x)",
    "|x^{7}-3x^{3}|<\\frac{1}{x}", "\\{x \\mid x^{9}+\\cos x < e^{x}\\}",
    "(-\\infty,\\sqrt[7]{x})\\cup(\\tan x,9)",
]  # fmt: skip
"""Answers on which symbolic mathematics takes for ever, eats the memory or raises."""


def shapes() -> list[str]:
    """Whole completions that are huge, deep, or made to trap a backtracking regular expression."""
    n = 100_000
    units = (
        "\\boxed{", "\\boxed", "\\fbox{", "\\", "{", "}", "(", "[", "$", "$$", "\\(", "\\[", "\\[x", "\\(a",
        "**", "* ", "answer is ", "Answer: ", "the final answer is ", "answer", "1,", "1,000,", "1 ", "-",
        ".", "0.", "^", "^{2", "_{1", "\\frac{", "\\frac{1}{", "\\sqrt", "\\text{", "\\text{and ", " and ",
        ",", ";", "=", "x=", "</think>", "<think>", "<|im_end|>", "\n\n", "\t", " ", "\r\n", "a b ",
        "(A) or ", "A or (B) ", "wait, ", "option ", "is is ", "9" * 9, "9^", "\\\\", "\\!", "\\,", "~",
        "\u200b", "\ufdfa", "\U0001d7d9", "é", "\u0301", "٣", "５",
    )  # fmt: skip
    repeated = [unit * (n // len(unit)) for unit in units]
    wrapped = ["\\boxed{" + unit * (1800 // len(unit)) + "}" for unit in units if "box" not in unit]
    huge = [
        "a" * 1_000_000,
        "1" * 1_000_000,
        "\\boxed{" + "1" * 1_000_000 + "}",
        "\\boxed{" + "(" * n + ")" * n + "}",
        "\\boxed{" * n + "5" + "}" * n,
        "$" + "x+" * 400_000 + "1$",
        "<think>" * n + "\\boxed{4}",
        "The answer is " + "very " * n,
        ("The answer is (" * n) + "B",
        "\\boxed{" + "\\frac{1}{2}+" * n + "1}",
    ]
    return repeated + wrapped + huge


ODD_CHARACTERS = [
    "", " ", "\x00", "\\boxed{\x00}", "\\boxed{4\x00 2}", "\x00" * 1000 + "\\boxed{\x00}", "\ud800",
    "\\boxed{\ud800}", "\\boxed{\udfff\ud800}", "\udcff" * 1000, "\\boxed{\u202e21}", "\\boxed{\ufeff}",
    "\\boxed{\U0010ffff}", "\x1b[31m\\boxed{9}\x1b[0m", "\\boxed{\r}", "\\boxed{\x08\x08}",
    "\\boxed{\u0338=}", "\\boxed{①}", "\\boxed{Ⅻ}", "\\boxed{௧௨}", "\\boxed{𝟗^𝟗^𝟗^𝟗}",
    "\\boxed{９^{９^{９^{９}}}}", "\\boxed{\u2028\u2029}", "\\boxed{\x85}",
]  # fmt: skip
"""Null bytes, lone surrogates, direction marks, digits of other scripts."""


def hostile_answers(canary: str) -> list[str]:
    """Answers (to be boxed) that must be wrong for every gold of the tests."""
    return [
        code.replace("{canary}", canary).replace("{{", "{").replace("}}", "}") for code in CODE
    ] + ARITHMETIC


def hostile_completions(canary: str) -> list[str]:
    """Whole completions, boxed and bare."""
    answers = hostile_answers(canary)
    boxed = [f"\\boxed{{{answer}}}" for answer in answers]
    stated = [f"The answer is {answer}" for answer in answers[: len(CODE)]]
    return boxed + stated + shapes() + ODD_CHARACTERS
