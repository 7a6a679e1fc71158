"""Rationales cut by hand: chains that doubt themselves, code, tables and mixtures of styles.

Owns labels only; the rule they follow and their marks are in `labelled_rationales`.
"""

MARKED = {
    "long chains": r"""
<think>
Okay, so I need to find how many cookies are left.¦ There were 24.¦ She gave away a third.¦ A third of 24 is 8.¦

Wait, did she eat any before that?¦ The question says she ate 2.¦ Hmm, so was it a third of 24 or of 22?¦

"Of what was left" means 22 - ... no, let me read it again.¦ She gave a third first.¦ So 24 - 8 = 16, then 16 - 2 = 14.
</think>¦

She gives away 8 and eats 2, so 24 - 8 - 2 = 14 are left.¦

The answer is 14.
%%
Hmm, let me think.¦ If x is odd, then x + 1 is even.¦ But wait, x could be 0... no, 0 is even.¦ OK.¦ So x + 1 is even.~
¦ Let me check with 5: 5 + 1 = 6, which is even.¦ Good!¦ So the answer is even.
%%
First I try 3 * 7 = 21.¦ No, that's too small.¦ Then 4 * 7 = 28.¦ Wait.¦ We need 27, not 28!¦ Hmm... what about 3 * 9?~
¦ Yes, 3 * 9 = 27.¦ Therefore, the answer is 9.
%%
Alright, the train leaves at 9 and arrives at 13.¦ So that's 4 hours.¦

Hold on, there is a stop of 30 minutes.¦ Does that count?¦ "Driving time" means it doesn't.¦

So 4 hours minus half an hour is 3.5 hours.¦ At 80 km/h this is 280 km.¦

Double-checking: 80 * 3.5 = 280.¦ Yes.¦

**Final Answer**

\boxed{280}
%%
<think>
The sum of two numbers is 10 and their difference is 2.¦

So x + y = 10,
x - y = 2.¦

Adding gives 2x = 12, x = 6.¦ Then y = 4.¦

Let me verify: 6 + 4 = 10 ✓, 6 - 4 = 2 ✓.
</think>¦

**Answer:** 6 and 4
%%
I think it's 5!¦ But is it?¦ Let's see: 2 + 2 is 4, not 5.¦ Oops.¦ My mistake -- I added 1 twice.¦ So it must be 4.~
¦ The answer is 4.
%%
So, we start at 100.¦ Then -20, which leaves 80.¦ Then... wait, is it 20 or 20%?¦ 20% of 100 is 20 anyway, so it's the same.~
¦ Next +10.¦ That gives 90.¦ I'm fairly sure now.¦ The final answer: 90
%%
Let's denote the age of Ann by a and that of Bob by b.¦ a = 2b.¦ In 5 years, a + 5 + b + 5 = 40.¦ So a + b = 30.~
¦ Actually, hmm.¦ a + b = 30 and a = 2b gives 3b = 30.¦ b = 10.¦ a = 20.¦ Let me double check: 25 + 15 = 40.¦ Correct.¦
""",
    "code": r"""
We can count them with a loop:

```python
total = 0
for i in range(5):
    total += i
print(total)
```¦

It prints 10.¦

The answer is 10.
%%
Define `f(x) = x * 2 + 1`.¦ Then `f(3) = 7`.¦ Calling `f(f(3))` gives `15`.¦ So the answer is 15.
%%
```
a = 4 * 5
b = a - 3
```¦
Here `a` is 20 and `b` is 17.¦
#### 17
%%
The list is `[3, 1, 2]`.¦ After `x.sort()` it is `[1, 2, 3]`.¦ Its first entry, `x[0]`, is 1.¦ Answer: 1
%%
Let me simulate it.¦

```python
# Start with 100 coins.
coins = 100

# Each day half of them go.
for day in range(2):
    coins //= 2
```¦

After day 1 there are 50 coins.¦ After day 2 there are 25.¦

The final answer is 25.
""",
    "tables": r"""
| Day | Miles |
|-----|-------|
| Mon | 3 |
| Tue | 4 |¦

Together that is 7 miles.¦

The answer is 7.
%%
The prices are as follows:

| Item | Price |
|---|---|
| Pen | $2 |
| Book | $9 |¦

Two pens and a book cost 2 * 2 + 9 = $13.¦

Answer: $13
%%
We fill in the table:
| x | y = 2x |
|:-:|:-:|
| 1 | 2 |
| 2 | 4 |
| 3 | 6 |¦
The last row has y = 6.¦
So the answer is 6.
%%
Let us compare them.¦

| Animal | Legs | Flies? |
|--------|------|--------|
| Bee | 6 | Yes. |
| Spider | 8 | No. |¦

Only the bee flies.¦ The correct answer is bee.
%%
Counting by group gives

| Group | Count |
|-------|------:|
| A | 12 |
| B | 30 |¦

In all there are 42.¦

#### 42
""",
    "mixtures": r"""
First, the cats: 3 + 4 = 7.¦ Second, the dogs:
5 - 2 = 3.¦

Sum:
7 + 3
= 10¦

The answer is 10.
%%
total = 12 + 30 = 42; half = 21¦
rest = 42 - 21 = 21¦
The answer is 21
%%
Each box holds 6 eggs.¦So 4 boxes hold 24 eggs.¦ She needs 30.¦The rest is 30 - 24 = 6.¦ The answer is 6.
%%
1. Cost of food¦
   - 2 pizzas: $20¦
   - 3 drinks: $6¦
2. Cost of the film¦
   - 2 tickets: $24¦

Total: $20 + $6 + $24 = $50¦

The answer is $50.
%%
"How far is it?" asked Tim.¦ "It's 5 miles," said Ann.¦ They walk there and back, i.e. 10 miles.¦ So the answer is 10.
%%
x/2 = 8 → x = 16¦
x² = 256¦
∴ √(x²) = 16¦

Final answer = 16
""",
}
